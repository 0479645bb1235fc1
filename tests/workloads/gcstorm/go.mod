module g211s.test/gcstorm

go 1.21
