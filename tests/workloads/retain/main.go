// Command retain allocates at a steady pace, keeps a known part of it for a while, and says each 50 ms how much of
// what each site made is kept by now.
//
// It prints `listening none`, waits for a line on standard input, and then prints lines
// `at NS site=made,kept …` (bytes, as the heap rounds them up; NS of CLOCK_MONOTONIC). It uses nothing that reads the
// runtime's memory profile, so the linker switches that off.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// A site keeps each object with a chance of keep in 100 for as long as its ring lasts, and for ever if ring is 0.
type site struct {
	name   string
	bytes  int64
	weight int
	keep   int
	ring   int
	alloc  func() unsafe.Pointer
}

type linked struct {
	next *linked
	pad  [56]byte
}

//go:noinline
func forever64() unsafe.Pointer { return unsafe.Pointer(new(linked)) }

//go:noinline
func forever512() unsafe.Pointer { return unsafe.Pointer(new([512]byte)) }

//go:noinline
func cache256() unsafe.Pointer { return unsafe.Pointer(new([32]*byte)) }

//go:noinline
func cache4096() unsafe.Pointer { return unsafe.Pointer(new([4096]byte)) }

//go:noinline
func large64k() unsafe.Pointer { return unsafe.Pointer(new([65536]byte)) }

//go:noinline
func garbage64() unsafe.Pointer { return unsafe.Pointer(new([64]byte)) }

//go:noinline
func garbage512() unsafe.Pointer { return unsafe.Pointer(new([512]byte)) }

//go:noinline
func garbage1024() unsafe.Pointer { return unsafe.Pointer(new([1024]byte)) }

var sites = []site{
	{"main.forever64", 64, 400, 40, 0, forever64},
	{"main.forever512", 512, 60, 30, 0, forever512},
	{"main.cache256", 256, 200, 100, 12000, cache256},
	{"main.cache4096", 4096, 12, 100, 800, cache4096},
	{"main.large64k", 65536, 1, 20, 0, large64k},
	{"main.garbage64", 64, 500, 0, 0, garbage64},
	{"main.garbage512", 512, 100, 0, 0, garbage512},
	{"main.garbage1024", 1024, 60, 0, 0, garbage1024},
}

var (
	mu     sync.Mutex
	kept   [16]*[]unsafe.Pointer
	places [16]int
	made   [16]int64
	keeps  [16]int64
	sink   unsafe.Pointer
)

func work(perSecond int) {
	r := rand.New(rand.NewSource(1))
	var order []int
	for i, s := range sites {
		for j := 0; j < s.weight; j++ {
			order = append(order, i)
		}
	}
	begin, done := time.Now(), 0
	for {
		mu.Lock()
		for i := 0; i < 500; i++ {
			n := order[r.Intn(len(order))]
			s := &sites[n]
			p := s.alloc()
			made[n] += s.bytes
			if r.Intn(100) >= s.keep {
				sink = p
				continue
			}
			all := *kept[n]
			if s.ring == 0 {
				*kept[n] = append(all, p)
				keeps[n] += s.bytes
				continue
			}
			if all[places[n]] == nil {
				keeps[n] += s.bytes
			}
			all[places[n]] = p
			places[n] = (places[n] + 1) % s.ring
		}
		mu.Unlock()
		done += 500
		time.Sleep(time.Until(begin.Add(time.Duration(done) * time.Second / time.Duration(perSecond))))
	}
}

func monotonic() int64 {
	var ts syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

func main() {
	rate := flag.Int("rate", 60000, "objects a second")
	percent := flag.Int("gogc", 100, "GOGC")
	every := flag.Duration("gc", 0, "collect this often")
	flag.Parse()
	debug.SetGCPercent(*percent)
	for i, s := range sites {
		// Room for what is kept in a test, so that growing is no site of its own.
		room := 1 << 21
		if s.bytes > 4096 {
			room = 1 << 14
		}
		list := make([]unsafe.Pointer, s.ring, room)
		kept[i] = &list
	}
	fmt.Println("listening none")
	// Nothing is made before somebody looks: what is in use later was all seen.
	in := bufio.NewReader(os.Stdin)
	in.ReadString('\n')
	go work(*rate)
	if *every > 0 {
		go func() {
			for {
				time.Sleep(*every)
				runtime.GC()
			}
		}()
	}
	for {
		var line strings.Builder
		mu.Lock()
		fmt.Fprintf(&line, "at %d", monotonic())
		for n, s := range sites {
			fmt.Fprintf(&line, " %s=%d,%d", s.name, made[n], keeps[n])
		}
		mu.Unlock()
		fmt.Println(line.String())
		time.Sleep(50 * time.Millisecond)
	}
}
