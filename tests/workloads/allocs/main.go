// Allocates from a dozen call sites and counts, by itself, what each has allocated: the truth for `g211s allocs`.
//
// Every 50 ms (`-every`) a line on standard output: "at NANOSECONDS cpu=NANOSECONDS site=BYTES,OBJECTS ...", by the
// monotonic clock, the CPU time of the program so far, and the sites' sums. Bytes are as the heap keeps them (rounded up to size classes): all sizes here are size classes but for those of large
// objects, which are whole pages.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

type node struct {
	left, right *node
	value       [6]uint64
}

type site struct {
	name   string
	bytes  int64
	weight int
	alloc  func() unsafe.Pointer
}

//go:noinline
func tiny16() unsafe.Pointer { return unsafe.Pointer(new([2]uint64)) }

//go:noinline
func small32() unsafe.Pointer { return unsafe.Pointer(new([4]uint64)) }

//go:noinline
func nodes64() unsafe.Pointer { return unsafe.Pointer(new(node)) }

//go:noinline
func bytes64() unsafe.Pointer { return unsafe.Pointer(new([64]byte)) }

//go:noinline
func bytes128() unsafe.Pointer { return unsafe.Pointer(new([128]byte)) }

//go:noinline
func table256() unsafe.Pointer { return unsafe.Pointer(new([32]*node)) }

//go:noinline
func bytes512() unsafe.Pointer { return unsafe.Pointer(new([512]byte)) }

//go:noinline
func bytes1024() unsafe.Pointer { return unsafe.Pointer(new([1024]byte)) }

//go:noinline
func bytes4096() unsafe.Pointer { return unsafe.Pointer(new([4096]byte)) }

//go:noinline
func bytes8192() unsafe.Pointer { return unsafe.Pointer(new([8192]byte)) }

//go:noinline
func bytes64k() unsafe.Pointer { return unsafe.Pointer(new([65536]byte)) }

// inlined is where it is called.
func inlined() unsafe.Pointer { return unsafe.Pointer(new([80]byte)) }

//go:noinline
func caller80() unsafe.Pointer { return inlined() }

var sites = []site{
	{"main.tiny16", 16, 300, tiny16},
	{"main.small32", 32, 300, small32},
	{"main.nodes64", 64, 250, nodes64},
	{"main.bytes64", 64, 100, bytes64},
	{"main.inlined", 80, 150, caller80},
	{"main.bytes128", 128, 150, bytes128},
	{"main.table256", 256, 60, table256},
	{"main.bytes512", 512, 50, bytes512},
	{"main.bytes1024", 1024, 25, bytes1024},
	{"main.bytes4096", 4096, 8, bytes4096},
	{"main.bytes8192", 8192, 3, bytes8192},
	{"main.bytes64k", 65536, 1, bytes64k},
}

var counts [64][64]struct {
	n   int64
	pad [7]int64
}

// kept keeps some objects for a while, so that spans are partly full.
var kept [64][4096]unsafe.Pointer

func worker(id int, seed int64, perSecond *atomic.Int64) {
	r := rand.New(rand.NewSource(seed))
	var order []int
	for i, s := range sites {
		for j := 0; j < s.weight; j++ {
			order = append(order, i)
		}
	}
	const batch = 500
	begin, done := time.Now(), int64(0)
	rate := perSecond.Load()
	for {
		for i := 0; i < batch; i++ {
			n := order[r.Intn(len(order))]
			p := sites[n].alloc()
			if r.Intn(8) == 0 {
				kept[id][r.Intn(len(kept[id]))] = p
			}
			atomic.AddInt64(&counts[id][n].n, 1)
		}
		done += batch
		if now := perSecond.Load(); now != rate {
			rate, begin, done = now, time.Now(), 0
		}
		if rate > 0 {
			due := begin.Add(time.Duration(done) * time.Second / time.Duration(rate))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
		}
	}
}

func monotonic() int64 {
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// cpuTime is that of the whole program.
func cpuTime() int64 {
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 2, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

func main() {
	rate := flag.Int64("rate", 0, "allocations a second of each worker; 0: as many as it can")
	workers := flag.Int("workers", 2, "goroutines that allocate")
	seed := flag.Int64("seed", 1, "of the choice of sites")
	rise := flag.Int64("rise", 0, "rate after SIGUSR1")
	every := flag.Duration("every", 50*time.Millisecond, "from line to line")
	flag.Parse()
	var perSecond atomic.Int64
	perSecond.Store(*rate)
	for i := 0; i < *workers; i++ {
		go worker(i, *seed+int64(i), &perSecond)
	}
	rises := make(chan os.Signal, 1)
	signal.Notify(rises, syscall.SIGUSR1)
	go func() {
		for range rises {
			perSecond.Store(*rise)
		}
	}()
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintln(out, "listening none")
	out.Flush()
	var line strings.Builder
	for {
		line.Reset()
		at := monotonic()
		fmt.Fprintf(&line, "at %d cpu=%d", at, cpuTime())
		for n, s := range sites {
			var sum int64
			for w := 0; w < *workers; w++ {
				sum += atomic.LoadInt64(&counts[w][n].n)
			}
			fmt.Fprintf(&line, " %s=%d,%d", s.name, sum*s.bytes, sum)
		}
		out.WriteString(line.String() + "\n")
		out.Flush()
		time.Sleep(*every)
	}
}
