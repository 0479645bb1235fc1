package main

import (
	"bufio"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Span is something done from … to, and how much of that the thread was off its CPU; ns.
type Span struct {
	kind           string
	from, to, away int64
}

// Log keeps what was done in memory until the end: writing would be something done, too.
type Log struct {
	mu      sync.Mutex
	spans   []Span
	figures map[string]func() int64
}

func (l *Log) add(s Span) {
	l.mu.Lock()
	l.spans = append(l.spans, s)
	l.mu.Unlock()
}

// atEnd has a figure asked for at the end.
func (l *Log) atEnd(name string, figure func() int64) {
	if l.figures == nil {
		l.figures = map[string]func() int64{}
	}
	l.figures[name] = figure
}

func (l *Log) print() {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for _, s := range l.spans {
		fmt.Fprintln(out, "span", s.kind, s.from, s.to, s.away)
	}
	for name, figure := range l.figures {
		fmt.Fprintln(out, "figure", name, figure())
	}
}

var (
	began   = time.Now()
	beganAt = monotonic()
)

// monotonic asks the kernel for CLOCK_MONOTONIC.
func monotonic() int64 {
	const clockMonotonic = 1
	var t syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

// now is CLOCK_MONOTONIC without a system call, a fraction of a microsecond off.
func now() int64 { return beganAt + int64(time.Since(began)) }
