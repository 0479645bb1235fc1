// Command metered does what its standard input says, and tells what the runtime counts of it: the
// subject of the tests of g211s's agreement with runtime/metrics.
//
// It prints `pid N` and `listening none`, then takes lines:
//
//	storm N     collects garbage N times, with other stops of the world and many goroutines in
//	            between; prints `stormed`
//	freeze MS T reads the metrics, then uses one CPU for that long without a call, so that nothing
//	            that the runtime counts can change; prints `T {json}` afterwards
//
// Run it with GODEBUG=asyncpreemptoff=1, or the runtime interrupts the freeze.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"
)

type node struct {
	next *node
	pad  [120]byte
}

var (
	live []*node
	sink []byte
	spun uint64
)

// names are read where this version of Go has them.
var names = []string{
	"/gc/cycles/total:gc-cycles",
	"/gc/cycles/forced:gc-cycles",
	"/gc/heap/goal:bytes",
	"/gc/heap/live:bytes",
	"/gc/pauses:seconds",
	"/memory/classes/heap/objects:bytes",
	"/sched/gomaxprocs:threads",
	"/sched/goroutines:goroutines",
	"/sched/latencies:seconds",
	"/sched/pauses/stopping/gc:seconds",
	"/sched/pauses/stopping/other:seconds",
	"/sched/pauses/total/gc:seconds",
	"/sched/pauses/total/other:seconds",
}

// spin uses the CPU for n rounds and calls nothing.
//
//go:noinline
func spin(n uint64) uint64 {
	x := uint64(1)
	for i := uint64(0); i < n; i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

// storm collects garbage n times.
func storm(n int) {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	until := stats.NumGC + uint32(n)
	debug.SetGCPercent(20)
	for stats.NumGC < until {
		var wg sync.WaitGroup
		for i := 0; i < 20; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for j := 0; j < 10; j++ {
					sink = make([]byte, 16<<10)
					runtime.Gosched()
				}
			}()
		}
		wg.Wait()
		runtime.ReadMemStats(&stats)
		time.Sleep(time.Millisecond)
	}
	debug.SetGCPercent(400)
	runtime.GC()
	runtime.GC()
}

// bucket is a histogram's bucket: [from, to) in ns, and its count.
type bucket [3]uint64

func nanoseconds(seconds float64) uint64 {
	switch {
	case seconds <= 0:
		return 0
	case math.IsInf(seconds, 1):
		return math.MaxUint64
	}
	return uint64(math.Round(seconds * 1e9))
}

func told(samples []metrics.Sample) string {
	out := map[string]any{"NumGoroutine": runtime.NumGoroutine()}
	for _, s := range samples {
		switch s.Value.Kind() {
		case metrics.KindUint64:
			out[s.Name] = s.Value.Uint64()
		case metrics.KindFloat64Histogram:
			h := s.Value.Float64Histogram()
			filled := []bucket{}
			for i, n := range h.Counts {
				if n > 0 {
					from, to := nanoseconds(h.Buckets[i]), nanoseconds(h.Buckets[i+1])
					filled = append(filled, bucket{from, to, n})
				}
			}
			out[s.Name] = filled
		}
	}
	text, _ := json.Marshal(out)
	return string(text)
}

func main() {
	for i := 0; i < 24*8; i++ {
		var head *node
		for j := 0; j < 1024; j++ {
			head = &node{next: head}
		}
		live = append(live, head)
	}
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	// Parked for good: goroutines to be counted.
	for i := 0; i < 100; i++ {
		go func() { select {} }()
	}
	debug.SetGCPercent(400)
	runtime.GC()
	runtime.GC()

	const rounds = 1 << 26
	began := time.Now()
	spun += spin(rounds)
	perMS := uint64(float64(rounds) / float64(time.Since(began).Milliseconds()+1))
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	// Twice: what the first reading allocates, the second finds.
	metrics.Read(samples)
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening none")

	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		what, arg, _ := strings.Cut(in.Text(), " ")
		arg, tag, _ := strings.Cut(arg, " ")
		n, _ := strconv.Atoi(arg)
		switch what {
		case "storm":
			storm(n)
			fmt.Println("stormed")
		case "freeze":
			metrics.Read(samples)
			spun += spin(uint64(n) * perMS)
			fmt.Println(tag, told(samples))
		}
	}
	runtime.KeepAlive(live)
}
