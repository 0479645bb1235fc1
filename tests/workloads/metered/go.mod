module g211s.test/metered

go 1.21
