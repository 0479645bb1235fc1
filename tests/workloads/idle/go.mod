module g211s.test/idle

go 1.21
