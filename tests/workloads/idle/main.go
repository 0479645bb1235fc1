// Command idle waits for connections that never come: the target in which nothing happens, and
// about which nothing may be reported. With -tick it does a little each time: as most services do
// most of the time.
//
// It prints `pid N` and `listening ADDR`.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"time"
)

var sink []byte

func main() {
	tick := flag.Duration("tick", 0, "wake up and allocate 32 KB this often; 0: never")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening", listener.Addr())
	if *tick > 0 {
		go func() {
			for range time.Tick(*tick) {
				sink = make([]byte, 32<<10)
			}
		}()
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}
