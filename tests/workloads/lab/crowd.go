package main

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

type node struct {
	next *node
	pad  [120]byte
}

// storm allocates from several goroutines as fast as it goes over a live heap full of pointers: the
// collector cannot keep up, and who allocates has to help it. Each logs the allocations that took long, under its
// number.
func storm(s Settings, log *Log) error {
	// The log shall not grow in the storm: that would be one more allocation that stalls, and none that is logged.
	log.spans = make([]Span, 0, 1<<16)
	var live []*node
	for i := 0; i < 16*8; i++ {
		var head *node
		for j := 0; j < 1024; j++ {
			head = &node{next: head}
		}
		live = append(live, head)
	}
	for i := 0; i < s.count; i++ {
		go func() {
			var mine *node
			kind := "allocation-" + goroutine()
			for n := 0; ; n++ {
				from := now()
				mine = &node{next: mine}
				if took := now() - from; took >= int64(time.Millisecond) {
					log.add(Span{kind, from, from + took, 0})
				}
				if n%4096 == 0 {
					mine = nil
				}
			}
		}()
	}
	log.atEnd("assist_cpu_ns", func() int64 {
		runtime.KeepAlive(live)
		return seconds("/cpu/classes/gc/mark/assist:cpu-seconds")
	})
	return nil
}

// goroutine is the number of the calling one, as tracebacks have it.
func goroutine() string {
	var text [64]byte
	fields := bytes.Fields(text[:runtime.Stack(text[:], false)])
	if len(fields) < 2 {
		panic(fmt.Sprintf("no goroutine in %q", text))
	}
	return string(fields[1])
}

func seconds(name string) int64 {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64 {
		return -1
	}
	return int64(sample[0].Value.Float64() * 1e9)
}

// flood makes more goroutines runnable at once than can run, time and again, each with something to do for
// a while: most of them wait for a P, though no thread waits for a CPU.
func flood(s Settings, log *Log) error {
	jitter := newJitter(s.seed)
	var longest atomic.Int64
	go func() {
		for {
			time.Sleep(jitter.of(s.every))
			from := now()
			var all sync.WaitGroup
			all.Add(s.count)
			for i := 0; i < s.count; i++ {
				made := now()
				go func() {
					defer all.Done()
					waited := now() - made
					for {
						known := longest.Load()
						if waited <= known || longest.CompareAndSwap(known, waited) {
							break
						}
					}
					for until := now() + int64(s.last); now() < until; {
					}
				}()
			}
			all.Wait()
			log.add(Span{"flood", from, now(), 0})
		}
	}()
	log.atEnd("longest_wait_ns", longest.Load)
	return nil
}
