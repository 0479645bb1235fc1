// Command epolls reads from the network at a slow, known pace: some reads find their data ready,
// most have to be waited for, and timers run in between, so that the runtime polls in both ways.
//
// It prints `pid N` and `listening ADDR`, and on SIGTERM `reads N`.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

var reads atomic.Uint64

func drain(conn net.Conn) {
	buffer := make([]byte, 1)
	for {
		if _, err := conn.Read(buffer); err != nil {
			return
		}
		reads.Add(1)
	}
}

func write(addr string, every time.Duration, burst int) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "epolls:", err)
		os.Exit(1)
	}
	for range time.Tick(every) {
		if _, err := conn.Write(make([]byte, burst)); err != nil {
			return
		}
	}
}

func main() {
	every := flag.Duration("every", 5*time.Millisecond, "time between writes of one connection")
	conns := flag.Int("c", 4, "connections")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "epolls:", err)
		os.Exit(1)
	}
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening", listener.Addr())
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go drain(conn)
		}
	}()
	for i := 0; i < *conns; i++ {
		go write(listener.Addr().String(), *every+time.Duration(i)*time.Millisecond, 1+i%3)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	<-stop
	fmt.Println("reads", reads.Load())
}
