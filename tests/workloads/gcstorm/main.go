// Command gcstorm collects garbage many times a second over a moderate live heap and does nothing
// else: the subject of the GC truth tests, which run it with GODEBUG=gctrace=1.
//
// It prints `pid N` and `listening none`, and on SIGTERM `gcs N` (the runtime's own count). With
// -cpuprofile it writes a profile until then, for builds that are optimised by one.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
	"time"
)

type node struct {
	next *node
	pad  [120]byte
}

var (
	live []*node
	sink []byte
)

func main() {
	liveMB := flag.Int("live", 24, "live heap, MB")
	rate := flag.Int("rate", 300, "allocation, MB/s")
	percent := flag.Int("gogc", 50, "GOGC, unless the environment sets it")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if *profile != "" {
		file, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(file)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "gcstorm:", err)
			os.Exit(1)
		}
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(*percent)
	}
	if runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
	for i := 0; i < *liveMB*8; i++ {
		var head *node
		for j := 0; j < 1024; j++ {
			head = &node{next: head}
		}
		live = append(live, head)
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening none")
	const tick = 5 * time.Millisecond
	pieces := *rate * 256 * int(tick) / int(time.Second)
	ticker := time.NewTicker(tick)
	for {
		select {
		case <-ticker.C:
			for i := 0; i < pieces; i++ {
				sink = make([]byte, 4096)
			}
		case <-stop:
			// A cycle is counted before its line is printed. So no cycle begins any more, and
			// stopping the world waits for the line of the last one (runtime/mgc.go:
			// gcMarkTermination holds worldsema until it is printed).
			debug.SetGCPercent(-1)
			pprof.StopCPUProfile()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			fmt.Println("gcs", stats.NumGC)
			runtime.KeepAlive(live)
			return
		}
	}
}
