// Command netlate has sockets become ready while all its threads are busy: another process (itself, with
// -send) writes the time into a connection at every -every, and here one goroutine waits for it while another
// computes for -busy at a time without a pause, on one P. The subject of the tests on network lateness.
//
// With -busy 0 it only waits: the peer is slow, and nothing is late.
//
// It prints `pid N` and `listening ADDR`, then `got ASKED_NS SENT_NS RECEIVED_NS` for each message (the
// runtime's nanotime, i.e. CLOCK_MONOTONIC; ASKED_NS is when a read last found nothing, and huge where none
// did), and ends on SIGTERM.
package main

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	_ "unsafe" // for go:linkname
)

//go:linkname nanotime runtime.nanotime
func nanotime() int64

var sink uint64

func fail(what string, err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "netlate:", what, err)
		os.Exit(1)
	}
}

func send(addr string, every time.Duration) {
	conn, err := net.Dial("tcp", addr)
	fail("connecting", err)
	var message [8]byte
	for {
		time.Sleep(every)
		binary.LittleEndian.PutUint64(message[:], uint64(nanotime()))
		if _, err := conn.Write(message[:]); err != nil {
			return
		}
	}
}

// compute never gives its thread away by itself.
func compute(busy time.Duration) {
	for {
		for end := nanotime() + int64(busy); nanotime() < end; {
			sink = sink*6364136223846793005 + 1
		}
		time.Sleep(busy / 2)
	}
}

// receive stamps the time at which a read found nothing, after which it is for the poll to tell of more.
func receive(conn net.Conn) {
	out := bufio.NewWriter(os.Stdout)
	raw, err := conn.(syscall.Conn).SyscallConn()
	fail("the connection's descriptor:", err)
	var message [8]byte
	for {
		asked := int64(math.MaxInt64)
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var failed error
			n, failed = syscall.Read(int(fd), message[:])
			if failed == syscall.EAGAIN {
				asked = nanotime()
			}
			return failed != syscall.EAGAIN
		})
		if err != nil || n != len(message) {
			return
		}
		got := nanotime()
		fmt.Fprintln(out, "got", asked, int64(binary.LittleEndian.Uint64(message[:])), got)
		out.Flush()
	}
}

func main() {
	to := flag.String("send", "", "be the sender, to this address")
	every := flag.Duration("every", 23*time.Millisecond, "time between messages")
	busy := flag.Duration("busy", 8*time.Millisecond, "time of computing at a time; 0: never")
	flag.Parse()
	if *to != "" {
		send(*to, *every)
		return
	}
	runtime.GOMAXPROCS(1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fail("listening", err)
	addr := listener.Addr().String()
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening", addr)
	sender := exec.Command(os.Args[0], "-send", addr, "-every", every.String())
	sender.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the sender dies with the thread that started it
	fail("starting the sender", sender.Start())
	conn, err := listener.Accept()
	fail("accepting", err)
	go receive(conn)
	if *busy > 0 {
		go compute(*busy)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	sender.Process.Kill()
	sender.Wait()
}
