module g211s.test/census

go 1.21
