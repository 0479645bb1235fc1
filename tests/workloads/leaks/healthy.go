package main

import (
	"math"
	"math/rand"
	"time"
)

// A cache that fills in some seconds, and then replaces what it has.
type cache struct {
	budget
	random  *rand.Rand
	size    int
	entries [][]byte
	limit   int
}

func newCache(random *rand.Rand) leaker {
	size := 2<<10 + random.Intn(4<<10)
	// Full after 6 s.
	return &cache{random: random, size: size, limit: *rate << 10 * 6 / size}
}

func (l *cache) step(n int) {
	l.left += n
	for l.left >= l.size {
		l.left -= l.size
		entry := here(make([]byte, l.size))
		if len(l.entries) < l.limit {
			l.entries = append(l.entries, entry)
			l.sum.Add(int64(l.size))
		} else if l.random.Intn(8) == 0 {
			// Most of what comes is rejected: what is there is used more.
			l.entries[l.random.Intn(len(l.entries))] = entry
		}
	}
}

// Load that comes and goes: requests under way hold memory for a while, and there are more of them at noon.
type diurnal struct {
	budget
	size  int
	began time.Time
	live  []inFlight
}

type inFlight struct {
	data  []byte
	until time.Time
}

func newDiurnal(random *rand.Rand) leaker {
	return &diurnal{size: 2<<10 + random.Intn(4<<10), began: time.Now()}
}

func (l *diurnal) step(n int) {
	now := time.Now()
	// Between nothing and twice the rate.
	phase := 2 * math.Pi * now.Sub(l.began).Seconds() / period.Seconds()
	l.left += int(float64(n) * 4 * (1 + math.Sin(phase)))
	for l.left >= l.size {
		l.left -= l.size
		l.sum.Add(int64(l.size))
		l.live = append(l.live, inFlight{here(make([]byte, l.size)), now.Add(2 * time.Second)})
	}
	done := 0
	for done < len(l.live) && l.live[done].until.Before(now) {
		l.sum.Add(-int64(l.size))
		done++
	}
	l.live = append([]inFlight(nil), l.live[done:]...)
}

// A table that is loaded once, some seconds after the start, and kept.
type step struct {
	budget
	size  int
	steps int
	table [][]byte
}

func newStep(random *rand.Rand) leaker { return &step{size: 4<<10 + random.Intn(4<<10)} }

func (l *step) step(int) {
	l.steps++
	// Half a second's worth of steps of a fiftieth each, 8 s after the beginning.
	if l.steps < 800 || l.steps >= 850 {
		return
	}
	l.left += *rate << 10 * 12 / 50
	for l.take(l.size) {
		l.table = append(l.table, here(make([]byte, l.size)))
	}
}
