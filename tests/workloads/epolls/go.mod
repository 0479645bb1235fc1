module g211s.test/epolls

go 1.21
