module g211s.test/retain

go 1.21
