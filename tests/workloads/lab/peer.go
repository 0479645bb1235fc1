package main

import (
	"io"
	"net"
	"time"
)

// client asks a peer for one byte at a time, and waits for it.
func client(s Settings, log *Log) error {
	for i := 0; i < s.count; i++ {
		connection, err := net.Dial("tcp", s.peer)
		if err != nil {
			return err
		}
		jitter := newJitter(s.seed + int64(i))
		go func() {
			answer := make([]byte, 1)
			for {
				from := now()
				if _, err := connection.Write(answer); err != nil {
					return
				}
				if _, err := io.ReadFull(connection, answer); err != nil {
					return
				}
				log.add(Span{"answer", from, now(), 0})
				time.Sleep(jitter.of(s.every))
			}
		}()
	}
	return nil
}
