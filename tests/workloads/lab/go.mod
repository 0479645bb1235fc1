module g211s.test/lab

go 1.21
