// Command spin keeps the world from stopping at known times: every -every one goroutine stays for -ms in
// code that does not let itself be preempted, while another allocates, so that the collector wants to stop
// the world meanwhile. The subject of the tests on non-preemptible code.
//
// -mode asm spins in assembly, which has no safe points. -mode loop spins in a loop without a call, which
// cannot be preempted under GODEBUG=asyncpreemptoff=1 only.
//
// It prints `pid N` and `listening -`, then `spin START_NS END_NS` (the runtime's nanotime, i.e.
// CLOCK_MONOTONIC) after each spin, and ends on SIGTERM.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	_ "unsafe" // for go:linkname
)

//go:linkname nanotime runtime.nanotime
func nanotime() int64

// burn counts n down, in assembly.
func burn(n uint64)

var (
	sink  []byte
	count uint64
)

// loop does the same in Go.
//
//go:noinline
func loop(n uint64) uint64 {
	x := n
	for n > 0 { // busy: from this line …
		x = x*6364136223846793005 + 1442695040888963407
		n-- // … to this one
	}
	return x
}

func spin(mode string, n uint64) {
	if mode == "asm" {
		burn(n)
	} else {
		count += loop(n)
	}
}

// rounds is how many rounds last ms milliseconds, as measured now.
func rounds(mode string, ms int) uint64 {
	const n = 4_000_000
	best := int64(1) << 62
	for i := 0; i < 5; i++ {
		start := nanotime()
		spin(mode, n)
		best = min(best, nanotime()-start)
	}
	return uint64(float64(n) * float64(ms) * 1e6 / float64(best))
}

// allocate makes garbage at a steady rate.
func allocate(mb int) {
	const tick = time.Millisecond
	pieces := mb * 256 * int(tick) / int(time.Second)
	for range time.Tick(tick) {
		for i := 0; i < pieces; i++ {
			sink = make([]byte, 4096)
		}
	}
}

func main() {
	mode := flag.String("mode", "asm", "what to spin in: asm or loop")
	ms := flag.Int("ms", 20, "how long to spin, ms")
	every := flag.Duration("every", 100*time.Millisecond, "how often")
	rate := flag.Int("rate", 800, "allocation, MB/s")
	flag.Parse()
	if *mode != "asm" && *mode != "loop" || *ms < 1 {
		fmt.Fprintln(os.Stderr, "spin: -mode is asm or loop, -ms at least 1")
		os.Exit(2)
	}
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	n := rounds(*mode, *ms)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	go allocate(*rate)
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening -")
	ticker := time.NewTicker(*every)
	for {
		select {
		case <-ticker.C:
			start := nanotime()
			spin(*mode, n)
			fmt.Println("spin", start, nanotime())
		case <-stop:
			return
		}
	}
}
