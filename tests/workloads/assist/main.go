// Command assist makes its goroutines wait outside of stops of the world, and measures it by its own clock.
//
// -mode storm: goroutines allocate as fast as they can over a live heap that is one long list, so that they must
// help the collector and often cannot; each allocation is timed.
//
// -mode blocked: a goroutine works, makes another one ready and then sleeps in a system call with its P. With
// GOMAXPROCS=1 the other one can only run when the runtime has taken the P away, or the call has returned: how
// long it waited is added up.
//
// It prints `pid N` and `listening none`, and for each line on its standard input `told LINE NAME VALUE …`.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"syscall"
	"time"
)

type node struct {
	next *node
	pad  [56]byte
}

var (
	slow   atomic.Int64
	slowNs atomic.Int64
	ops    atomic.Int64
	waitNs atomic.Int64
	sink   atomic.Pointer[node]
	roots  []*node
	begin  = time.Now()
)

// One long list: the collector can follow it on one thread only, and who would help finds nothing to do.
func list(nodes int) *node {
	var head *node
	for i := 0; i < nodes; i++ {
		head = &node{next: head}
	}
	return head
}

func allocate(threshold time.Duration) {
	for {
		start := time.Now()
		n := &node{next: sink.Load()}
		took := time.Since(start)
		n.next = nil
		sink.Store(n)
		if took >= threshold {
			slow.Add(1)
			slowNs.Add(int64(took))
		}
	}
}

func block(sleep, pause time.Duration) {
	ran := make(chan time.Duration, 1)
	for {
		// Busy: a sysmon that has found nothing to do for long looks more and more seldom.
		for start := time.Now(); time.Since(start) < pause; {
		}
		ready := time.Now()
		go func() { ran <- time.Since(ready) }()
		spec := syscall.NsecToTimespec(int64(sleep))
		syscall.Nanosleep(&spec, nil)
		waitNs.Add(int64(<-ran))
		ops.Add(1)
	}
}

func assistNs() int64 {
	sample := []metrics.Sample{{Name: "/cpu/classes/gc/mark/assist:cpu-seconds"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64 {
		return -1
	}
	return int64(sample[0].Value.Float64() * 1e9)
}

func main() {
	mode := flag.String("mode", "storm", "storm or blocked")
	live := flag.Int("nodes", 400_000, "storm: nodes of the live list")
	workers := flag.Int("workers", 8, "storm: goroutines that allocate")
	threshold := flag.Duration("threshold", time.Millisecond, "storm: an allocation is slow from here on")
	sleep := flag.Duration("sleep", 5*time.Millisecond, "blocked: in the system call")
	pause := flag.Duration("pause", 20*time.Millisecond, "blocked: of work before it")
	flag.Parse()
	switch *mode {
	case "storm":
		roots = append(roots, list(*live))
		for i := 0; i < *workers; i++ {
			go allocate(*threshold)
		}
	case "blocked":
		go block(*sleep, *pause)
	default:
		fmt.Fprintln(os.Stderr, "assist: no mode", *mode)
		os.Exit(2)
	}
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening none")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println("told", lines.Text(), "slow", slow.Load(), "slow_ns", slowNs.Load(), "ops", ops.Load(),
			"wait_ns", waitNs.Load(), "assist_ns", assistNs(),
			"at_ns", time.Since(begin).Nanoseconds())
	}
	runtime.KeepAlive(roots)
}
