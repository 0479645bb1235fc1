module g211s.test/heap

go 1.21
