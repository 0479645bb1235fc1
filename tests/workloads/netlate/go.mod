module g211s.test/netlate

go 1.21
