module g211s.test/spin

go 1.21
