// Command service is the HTTP service that g211s's demo and tests observe: requests that
// allocate, over a live heap that the garbage collector has to mark. No pprof, no tracing.
//
// It prints `pid N` and `listening ADDR`, and on SIGTERM `totals {json}`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/metrics"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// node makes the live heap a graph, so that marking has pointers to follow.
type node struct {
	next *node
	pad  [120]byte
}

var (
	live     []*node
	sink     atomic.Pointer[[]byte]
	requests atomic.Uint64
	failed   atomic.Uint64
)

// Writers that fail (a client went away mid-response) count as failed requests.
func reply(w http.ResponseWriter, text string) {
	requests.Add(1)
	if _, err := w.Write([]byte(text)); err != nil {
		failed.Add(1)
	}
}

func number(r *http.Request, key string, otherwise int) int {
	if n, err := strconv.Atoi(r.URL.Query().Get(key)); err == nil && n >= 0 {
		return n
	}
	return otherwise
}

// allocate makes kb KiB of garbage in pieces of 1 KiB; the last one stays reachable for a while.
func allocate(kb int) {
	for i := 0; i < kb; i++ {
		piece := make([]byte, 1024)
		piece[i%1024] = 1
		sink.Store(&piece)
	}
}

// newThreads starts n threads, each of which blocks once in the kernel, works a little, ends.
// Their ids are returned when all have ended.
func newThreads(n int) []int {
	tids := make([]int, n)
	gate := make(chan struct{})
	var ready, done sync.WaitGroup
	for i := 0; i < n; i++ {
		ready.Add(1)
		done.Add(1)
		go func(i int) {
			defer done.Done()
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			tids[i] = syscall.Gettid()
			ready.Done()
			<-gate
			for round := 0; round < 10; round++ {
				pause := syscall.NsecToTimespec(int64(2 * time.Millisecond))
				_ = syscall.Nanosleep(&pause, nil)
				allocate(64)
			}
		}(i)
	}
	ready.Wait()
	close(gate)
	done.Wait()
	return tids
}

func background(mbPerSecond int) {
	const tick = 5 * time.Millisecond
	kb := mbPerSecond * 1024 * int(tick) / int(time.Second)
	for range time.Tick(tick) {
		allocate(kb)
	}
}

func pauses() map[string]uint64 {
	out := map[string]uint64{}
	samples := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/sched/pauses/total/gc:seconds"}, // from Go 1.22
		{Name: "/gc/pauses:seconds"},
	}
	metrics.Read(samples)
	for _, s := range samples {
		switch s.Value.Kind() {
		case metrics.KindUint64:
			out[s.Name] = s.Value.Uint64()
		case metrics.KindFloat64Histogram:
			for _, n := range s.Value.Float64Histogram().Counts {
				out[s.Name] += n
			}
		}
	}
	return out
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "address to listen on")
	liveMB := flag.Int("live", 32, "live heap, MB")
	kb := flag.Int("kb", 64, "allocation per request, KB, unless the request says kb=")
	rate := flag.Int("rate", 0, "background allocation, MB/s")
	withMetrics := flag.Bool("metrics", false, "print runtime/metrics' GC counts at exit")
	execOnHup := flag.Bool("exec-on-hup", false, "on SIGHUP become another program, which waits")
	reexecOnHup := flag.Bool("reexec-on-hup", false, "on SIGHUP become the same program anew")
	flag.Parse()

	for i := 0; i < *liveMB*1024*1024/128/1024; i++ {
		var head *node
		for j := 0; j < 1024; j++ {
			head = &node{next: head}
		}
		live = append(live, head)
	}

	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { reply(w, "ok\n") })
	mux.HandleFunc("/work", func(w http.ResponseWriter, r *http.Request) {
		allocate(number(r, "kb", *kb))
		reply(w, "done\n")
	})
	mux.HandleFunc("/threads", func(w http.ResponseWriter, r *http.Request) {
		text, _ := json.Marshal(newThreads(number(r, "n", 4)))
		reply(w, string(text)+"\n")
	})

	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
	server := &http.Server{Handler: mux}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	if *execOnHup || *reexecOnHup {
		hup := make(chan os.Signal, 1)
		signal.Notify(hup, syscall.SIGHUP)
		go func() {
			<-hup
			name, args := "/bin/sleep", []string{"sleep", "1000"}
			if *reexecOnHup {
				name, args = "/proc/self/exe", os.Args
			}
			err := syscall.Exec(name, args, os.Environ())
			fmt.Fprintln(os.Stderr, "service:", err)
		}()
	}
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening", listener.Addr())
	if *rate > 0 {
		go background(*rate)
	}
	go func() {
		if err := server.Serve(listener); err != http.ErrServerClosed {
			fmt.Fprintln(os.Stderr, "service:", err)
			os.Exit(1)
		}
	}()

	<-stop
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = server.Shutdown(ctx)
	totals := map[string]any{"requests": requests.Load(), "failed": failed.Load()}
	if *withMetrics {
		totals["metrics"] = pauses()
	}
	text, _ := json.Marshal(totals)
	fmt.Println("totals", string(text))
	runtime.KeepAlive(live)
}
