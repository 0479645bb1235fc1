module g211s.test/allocs

go 1.21
