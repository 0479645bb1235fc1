module g211s.test/runtime

go 1.21
