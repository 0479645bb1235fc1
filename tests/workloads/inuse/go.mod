module g211s.test/inuse

go 1.21
