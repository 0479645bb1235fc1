// Command load sends requests over keep-alive connections until its time is up or it is told to
// stop (SIGTERM, SIGINT), then prints one line of JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"sort"
	"sync"
	"syscall"
	"time"
)

type result struct {
	latencies []time.Duration
	errors    int
	firstErr  string
}

func worker(ctx context.Context, client *http.Client, url string, ticks <-chan time.Time) result {
	var r result
	for {
		if ticks != nil {
			select {
			case <-ticks:
			case <-ctx.Done():
				return r
			}
		}
		if ctx.Err() != nil {
			return r
		}
		began := time.Now()
		// The request itself is never cut off: a stop must not look like a failed request.
		err := once(client, url)
		if err != nil {
			r.errors++
			if r.firstErr == "" {
				r.firstErr = err.Error()
			}
			time.Sleep(time.Millisecond)
			continue
		}
		r.latencies = append(r.latencies, time.Since(began))
	}
}

func once(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}

func main() {
	url := flag.String("url", "", "what to ask for")
	conns := flag.Int("c", 4, "connections")
	seconds := flag.Float64("d", 10, "seconds; 0: until stopped")
	qps := flag.Float64("qps", 0, "requests a second in all; 0: as fast as it goes")
	flag.Parse()
	if *url == "" || *conns < 1 {
		fmt.Fprintln(os.Stderr, "load: -url and at least one connection, please")
		os.Exit(2)
	}

	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	if *seconds > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*seconds*float64(time.Second)))
		defer cancel()
	}
	var ticks <-chan time.Time
	if *qps > 0 {
		ticks = time.Tick(time.Duration(float64(time.Second) / *qps))
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: *conns, MaxConnsPerHost: *conns},
	}

	results := make([]result, *conns)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range results {
		wg.Add(1)
		go func(i int) {
			defer wg.Done()
			results[i] = worker(ctx, client, *url, ticks)
		}(i)
	}
	wg.Wait()
	took := time.Since(began).Seconds()

	var all []time.Duration
	errors, firstErr := 0, ""
	for _, r := range results {
		all = append(all, r.latencies...)
		errors += r.errors
		if firstErr == "" {
			firstErr = r.firstErr
		}
	}
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	quantile := func(q float64) int64 {
		if len(all) == 0 {
			return 0
		}
		return all[int(q*float64(len(all)-1))].Microseconds()
	}
	text, _ := json.Marshal(map[string]any{
		"requests": len(all), "errors": errors, "first_error": firstErr, "seconds": took,
		"rps": float64(len(all)) / took, "p50_us": quantile(0.5), "p99_us": quantile(0.99),
	})
	fmt.Println(string(text))
}
