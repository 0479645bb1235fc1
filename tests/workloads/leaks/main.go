// Command leaks leaks memory in one known way, or not at all, with ordinary allocation beside it.
//
//	-kind goroutine|map|subslice|channel|response|slice|pool|closure   leaks
//	-kind cache|diurnal|step                                           does not
//	-seed N      other sizes and orders
//	-rate N      KB a second that leak
//	-background N  KB a second of other allocation
//	-gc D        how often it collects (0: when the runtime wants to)
//	-for D       how long it runs (0: until it is killed)
//	-warm D      how long before it begins to leak
//
// It prints `listening -` when it is up, and then `truth ` and JSON: kind, whether it leaks, and the
// function, file and line that make what stays, or what grows for a while; and "in", beginnings of the
// names of functions below it that really allocate, or in whose goroutines it happens; and "also", the same
// of those that make smaller things which stay with it (what a goroutine waits by, a buffer's header).
// After each collection: `heap ` and JSON with the number of collections, seconds since the start and
// the bytes that were reached (HeapAlloc right after), and how many bytes are held on purpose.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

var (
	kind       = flag.String("kind", "slice", "what it does")
	seed       = flag.Int64("seed", 1, "of its random numbers")
	rate       = flag.Int("rate", 1024, "KB a second that leak")
	background = flag.Int("background", 8192, "KB a second of other allocation")
	gcEvery    = flag.Duration("gc", time.Second, "how often it collects")
	runFor     = flag.Duration("for", 0, "how long it runs")
	warm       = flag.Duration("warm", 2*time.Second, "how long before it begins")
	period     = flag.Duration("period", 20*time.Second, "of -kind diurnal")
)

// What a kind does: one step every 10 ms, with so many bytes to be made.
type leaker interface {
	step(bytes int)
	// held is how many bytes it keeps.
	held() int64
}

var kinds = map[string]struct {
	leaks bool
	make  func(*rand.Rand) leaker
	in    []string
	also  []string
}{
	"goroutine": {true, newGoroutines, []string{}, []string{"main.(*goroutines)."}},
	"map":       {true, newGrowingMap, []string{}, []string{}},
	"subslice":  {true, newSubslices, []string{}, []string{}},
	"channel":   {true, newChannel, []string{}, []string{"main.(*channel)."}},
	"response":  {true, newResponses, []string{"net/http.", "bufio.", "net."}, []string{"context."}},
	"slice":     {true, newGlobalSlice, []string{}, []string{}},
	"pool":      {true, newPool, []string{}, []string{"main.newPool."}},
	"closure":   {true, newCallbacks, []string{}, []string{}},
	"cache":     {false, newCache, []string{}, []string{}},
	"diurnal":   {false, newDiurnal, []string{}, []string{}},
	"step":      {false, newStep, []string{}, []string{}},
}

// Where the bytes are made that stay: told by the line itself.
type site struct {
	Function string `json:"function"`
	File     string `json:"file"`
	Line     int    `json:"line"`
}

var (
	told  sync.Once
	truth = make(chan site, 1)
)

// here is called on the line that allocates, with what it allocates: `x := here(make([]byte, n))`. It is
// inlined, so that the line has the allocation.
func here[T any](value T) T {
	told.Do(tell)
	return value
}

// tell finds the line that called here, by name: whether `here` is inlined does not matter then.
//
//go:noinline
func tell() {
	var pcs [8]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		frame, more := frames.Next()
		if !isHelper(frame.Function) {
			truth <- site{frame.Function, frame.File, frame.Line}
			return
		}
		if !more {
			panic("nobody allocates")
		}
	}
}

func isHelper(name string) bool {
	for _, prefix := range []string{"main.here", "sync.", "main.tell"} {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// heap is what is told after each collection.
type heap struct {
	GC      uint32  `json:"gc"`
	Seconds float64 `json:"seconds"`
	Live    uint64  `json:"live"`
	Held    int64   `json:"held"`
}

func report(name string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		os.Exit(1)
	}
	fmt.Printf("%s %s\n", name, text)
}

func main() {
	flag.Parse()
	chosen, ok := kinds[*kind]
	if !ok {
		fmt.Fprintln(os.Stderr, "leaks: no kind", *kind)
		os.Exit(2)
	}
	if *gcEvery > 0 {
		debug.SetGCPercent(-1)
	}
	random := rand.New(rand.NewSource(*seed))
	leaker := chosen.make(random)
	began := time.Now()
	var stop atomic.Bool
	go work(rand.New(rand.NewSource(*seed+1)), *background<<10)
	fmt.Println("listening -")

	go func() {
		time.Sleep(*warm)
		last := time.Now()
		first := true
		for range time.Tick(10 * time.Millisecond) {
			if stop.Load() {
				return
			}
			now := time.Now()
			leaker.step(int(now.Sub(last).Seconds() * float64(*rate<<10)))
			last = now
			if first {
				// The first step that makes anything says where.
				select {
				case at := <-truth:
					first = false
					report("truth", struct {
						Kind  string `json:"kind"`
						Leaks bool   `json:"leaks"`
						site
						In   []string `json:"in"`
						Also []string `json:"also"`
					}{*kind, chosen.leaks, at, chosen.in, chosen.also})
				default:
				}
			}
		}
	}()

	every := *gcEvery
	if every <= 0 {
		every = 200 * time.Millisecond
	}
	var stats runtime.MemStats
	var seen uint32
	for range time.Tick(every) {
		if *gcEvery > 0 {
			runtime.GC()
		}
		runtime.ReadMemStats(&stats)
		if stats.NumGC != seen {
			seen = stats.NumGC
			report("heap", heap{seen, time.Since(began).Seconds(), stats.HeapAlloc, leaker.held()})
		}
		if *runFor > 0 && time.Since(began) > *runFor {
			stop.Store(true)
			return
		}
	}
}
