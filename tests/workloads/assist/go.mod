module g211s.test/assist

go 1.21
