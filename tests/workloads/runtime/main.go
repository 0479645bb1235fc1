// Command runtime says what its own runtime says of itself, so that what is read from outside can be
// compared: on each line on standard input it prints one line of JSON. It is also a program that has
// everything in it: parked goroutines of several kinds, several threads, the heap profile.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	_ "net" // with cgo enabled this links runtime/cgo
	"os"
	"runtime"
	"runtime/metrics"
	"sync"
	"syscall"
	"time"
)

type answer struct {
	Nanotime     int64
	NumGoroutine int
	GOMAXPROCS   int
	Threads      int
	MemStats     runtime.MemStats
	Metrics      map[string]uint64
	// Name to counts, bucket by bucket.
	Histograms map[string][]uint64
	Profile    int
}

var sink []byte

func park(n int) {
	var never sync.Mutex
	never.Lock()
	nothing := make(chan int)
	for i := 0; i < n; i++ {
		switch i % 4 {
		case 0:
			go never.Lock()
		case 1:
			go func() { <-nothing }()
		case 2:
			go func() { time.Sleep(time.Hour) }()
		case 3:
			go func() {
				select {
				case <-nothing:
				case nothing <- 1:
				}
			}()
		}
	}
}

// threads keeps n threads in the kernel.
func threads(n int) {
	var ready sync.WaitGroup
	ready.Add(n)
	for i := 0; i < n; i++ {
		go func() {
			runtime.LockOSThread()
			ready.Done()
			for {
				pause := syscall.NsecToTimespec(int64(time.Hour))
				_ = syscall.Nanosleep(&pause, nil)
			}
		}()
	}
	ready.Wait()
}

func ask() answer {
	var a answer
	samples := make([]metrics.Sample, 0, 100)
	for _, d := range metrics.All() {
		samples = append(samples, metrics.Sample{Name: d.Name})
	}
	metrics.Read(samples)
	a.Metrics = map[string]uint64{}
	a.Histograms = map[string][]uint64{}
	for _, s := range samples {
		switch s.Value.Kind() {
		case metrics.KindUint64:
			a.Metrics[s.Name] = s.Value.Uint64()
		case metrics.KindFloat64Histogram:
			a.Histograms[s.Name] = s.Value.Float64Histogram().Counts
		}
	}
	runtime.ReadMemStats(&a.MemStats)
	a.NumGoroutine = runtime.NumGoroutine()
	a.GOMAXPROCS = runtime.GOMAXPROCS(0)
	records := make([]runtime.MemProfileRecord, 1000)
	a.Profile, _ = runtime.MemProfile(records, true)
	a.Nanotime = time.Now().UnixNano()
	return a
}

func main() {
	park(40)
	threads(2)
	for i := 0; i < 100; i++ {
		sink = make([]byte, 1<<20)
	}
	runtime.GC()
	fmt.Printf("pid %d\nready\n", os.Getpid())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() == "gc" {
			runtime.GC()
		}
		out, err := json.Marshal(ask())
		if err != nil {
			panic(err)
		}
		fmt.Println(string(out))
	}
}
