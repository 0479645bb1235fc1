module g211s.test/leaks

go 1.21
