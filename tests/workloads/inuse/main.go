// Command inuse allocates as fast as it can (or at a pace), keeps what it makes in caches of known sizes, and writes its
// own heap profile when told to: what g211s says of its heap from outside is compared with that.
//
// It prints `listening none`, and reads lines from standard input:
//
//	go            begin to allocate
//	profile FILE  write the heap profile as it is (pprof's format), and print `done profile ERROR OBJECTS`, the objects
//	              made so far
package main

import (
	"bufio"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"
)

// Before anything else: many samples, so that the profile's own error is small.
var rate = func() int {
	runtime.MemProfileRate = 32 << 10
	return runtime.MemProfileRate
}()

// A site makes an object each weight of 10,000 times, and keeps the last ring of them; none if ring is 0.
type site struct {
	weight int
	ring   int
	alloc  func() unsafe.Pointer
}

type node struct {
	left, right *node
	value       [6]uint64
}

type record struct {
	next *record
	data [504]byte
}

type session struct {
	owner *node
	state [1016]byte
}

type table struct{ rows [2000]*node }

//go:noinline
func sessions() unsafe.Pointer { return unsafe.Pointer(new(session)) }

//go:noinline
func pages() unsafe.Pointer { return unsafe.Pointer(new([4096]byte)) }

//go:noinline
func rows() unsafe.Pointer { return unsafe.Pointer(new([32]*node)) }

//go:noinline
func nodes() unsafe.Pointer { return unsafe.Pointer(new(node)) }

//go:noinline
func blobs() unsafe.Pointer { return unsafe.Pointer(new([65536]byte)) }

//go:noinline
func indexes() unsafe.Pointer { return unsafe.Pointer(new([128]byte)) }

//go:noinline
func keys() unsafe.Pointer { return unsafe.Pointer(new([4]uint64)) }

//go:noinline
func records() unsafe.Pointer { return unsafe.Pointer(new(record)) }

//go:noinline
func slices() unsafe.Pointer { s := make([]*session, 5000+rand.Intn(2)); return unsafe.Pointer(&s[0]) }

//go:noinline
func tables() unsafe.Pointer { return unsafe.Pointer(new(table)) }

//go:noinline
func counters() unsafe.Pointer { return unsafe.Pointer(new(uint64)) }

//go:noinline
func garbage48() unsafe.Pointer { return unsafe.Pointer(new([48]byte)) }

//go:noinline
func garbage64() unsafe.Pointer { return unsafe.Pointer(new(node)) }

//go:noinline
func garbage512() unsafe.Pointer { return unsafe.Pointer(new(record)) }

var sites = []site{
	{24, 20000, sessions},
	{5, 3600, pages},
	{150, 40000, rows},
	{700, 120000, nodes},
	{1, 90, blobs},
	{200, 36000, indexes},
	{500, 100000, keys},
	{16, 4600, records},
	{1, 45, slices},
	{1, 110, tables},
	{400, 60000, counters},
	{4000, 0, garbage48},
	{3900, 0, garbage64},
	{102, 0, garbage512},
}

var (
	made  [64 * 8]int64
	sinks [64 * 8]unsafe.Pointer
)

func work(id, workers, perSecond int, fill bool) {
	r := rand.New(rand.NewSource(int64(id)))
	var order []uint8
	for i, s := range sites {
		for j := 0; j < s.weight; j++ {
			order = append(order, uint8(i))
		}
	}
	r.Shuffle(len(order), func(a, b int) { order[a], order[b] = order[b], order[a] })
	var rings [16][]unsafe.Pointer
	var places [16]int
	for i, s := range sites {
		rings[i] = make([]unsafe.Pointer, s.ring/workers)
		for j := range rings[i] {
			if fill {
				rings[i][j] = s.alloc()
			}
		}
	}
	begin, done := time.Now(), 0
	for at := 0; ; {
		const batch = 2000
		// Another place in the order each time, so that sites come in no fixed turn.
		at = r.Intn(len(order) - batch)
		for _, n := range order[at : at+batch] {
			p := sites[n].alloc()
			ring := rings[n]
			if len(ring) == 0 {
				sinks[id*8] = p
				continue
			}
			ring[places[n]] = p
			if places[n]++; places[n] == len(ring) {
				places[n] = 0
			}
		}
		atomic.AddInt64(&made[id*8], batch)
		done += batch
		if perSecond > 0 {
			due := begin.Add(time.Duration(done) * time.Second / time.Duration(perSecond))
			time.Sleep(time.Until(due))
		} else {
			runtime.Gosched()
		}
	}
}

func profile(file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	return pprof.Lookup("heap").WriteTo(out, 0)
}

func main() {
	perSecond := flag.Int("rate", 0, "objects a second of each worker; 0: as many as it can")
	workers := flag.Int("workers", 2, "goroutines that allocate")
	fill := flag.Bool("fill", false, "fill the caches before anything else")
	flag.Parse()
	fmt.Println("listening none")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		switch {
		case len(words) == 1 && words[0] == "go":
			for i := 0; i < *workers; i++ {
				go work(i, *workers, *perSecond, *fill)
			}
		case len(words) == 2 && words[0] == "profile":
			var sum int64
			for i := 0; i < *workers; i++ {
				sum += atomic.LoadInt64(&made[i*8])
			}
			fmt.Println("done profile", profile(words[1]), sum)
		}
	}
	time.Sleep(time.Hour)
}
