module g211s.test/frames

go 1.18
