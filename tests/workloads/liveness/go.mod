module g211s.test/liveness

go 1.21
