// Command lab is what the fault laboratory observes. It does one known thing, by its -mode, at
// moments that its -seed settles, and says afterwards, by its own clock, when it did it.
//
// It prints `listening none` once it is at work, and on SIGTERM one line for each thing that it did:
// `span KIND FROM TO AWAY` (CLOCK_MONOTONIC, and how much of it its thread was not on a CPU; ns), then
// `figure NAME VALUE`.
package main

import (
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Settings are the flags that modes share.
type Settings struct {
	seed  int64
	every time.Duration // between two injections, on average
	last  time.Duration // how long one lasts, on average
	file  string        // a file whose pages come late
	peer  string        // who answers late
	count int           // how many at once
}

func main() {
	var s Settings
	mode := flag.String("mode", "steady", "what to do: "+strings.Join(modes(), ", "))
	flag.Int64Var(&s.seed, "seed", 1, "settles every moment and length")
	flag.DurationVar(&s.every, "every", 50*time.Millisecond, "between two injections, on average")
	flag.DurationVar(&s.last, "last", 5*time.Millisecond, "length of an injection, on average")
	flag.StringVar(&s.file, "file", "", "a file whose pages come late")
	flag.StringVar(&s.peer, "peer", "", "address of a peer that answers late")
	flag.IntVar(&s.count, "count", 4, "how many at once, in modes that do things in numbers")
	stops := flag.Duration("stops", time.Millisecond, "between two stops of the world, on average; 0: none")
	busy := flag.Int("busy", 0, "goroutines that only compute")
	alloc := flag.Int("alloc", 0, "allocation, MB/s")
	flag.Parse()
	run, ok := table[*mode]
	if !ok {
		fmt.Fprintln(os.Stderr, "lab: no mode", *mode)
		os.Exit(2)
	}

	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	var log Log
	if err := run(s, &log); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
	for i := 0; i < *busy; i++ {
		go compute()
	}
	if *alloc > 0 {
		go allocate(*alloc)
	}
	if *stops > 0 {
		go stopTheWorld(*stops, newJitter(s.seed+1))
	}
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening none")
	<-end
	log.print()
}

// table has every mode: it starts what is to be done and comes back.
var table = map[string]func(Settings, *Log) error{
	"steady":   func(Settings, *Log) error { return nil },
	"spin-asm": spinInAssembly,
	"spin-go":  spinInGo,
	"fault":    faultPages,
	"block":    blockInSyscalls,
	"retake":   leavePsInSyscalls,
	"storm":    storm,
	"flood":    flood,
	"client":   client,
	"hog":      hog,
}

func modes() []string {
	var names []string
	for name := range table {
		names = append(names, name)
	}
	return names
}

// Jitter gives lengths between half and one and a half of what is asked for.
type Jitter struct{ random *rand.Rand }

func newJitter(seed int64) Jitter { return Jitter{rand.New(rand.NewSource(seed))} }

func (j Jitter) of(mean time.Duration) time.Duration {
	return mean/2 + time.Duration(j.random.Int63n(int64(mean)+1))
}

// stopTheWorld reads the memory statistics, for which the world stops, and every 16th time has
// garbage collected, for which it stops twice.
func stopTheWorld(every time.Duration, jitter Jitter) {
	var stats runtime.MemStats
	for n := 1; ; n++ {
		if every < 100*time.Microsecond {
			// Below the resolution of a sleep.
			for until := now() + int64(jitter.of(every)); now() < until; {
				runtime.Gosched()
			}
		} else {
			time.Sleep(jitter.of(every))
		}
		if n%16 == 0 {
			runtime.GC()
		} else {
			runtime.ReadMemStats(&stats)
		}
	}
}

var computed uint64

// compute is preemptible like any code of Go's.
func compute() {
	x := uint64(1)
	for {
		for i := 0; i < 1000; i++ {
			x = x*6364136223846793005 + 1442695040888963407
		}
		computed = x
	}
}

var sink []byte

func allocate(megabytes int) {
	const tick = 5 * time.Millisecond
	pieces := megabytes * 256 * int(tick) / int(time.Second)
	for range time.Tick(tick) {
		for i := 0; i < pieces; i++ {
			sink = make([]byte, 4096)
		}
	}
}
