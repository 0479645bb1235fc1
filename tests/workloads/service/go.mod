module g211s.test/service

go 1.21
