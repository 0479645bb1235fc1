module g211s.test/load

go 1.21
