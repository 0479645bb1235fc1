module g211s.test/stackgrow

go 1.21
