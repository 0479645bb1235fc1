package main

import (
	"fmt"
	"math/rand"
	"sort"
	"strings"
	"time"
)

// What every service does beside its leak: requests that allocate and are done, sessions that live for
// some seconds, a ring of the last log lines.

type session struct {
	id    string
	data  []byte
	until time.Time
	tags  map[string]string
}

type request struct {
	path   string
	body   []byte
	fields []string
}

var (
	sessions []*session
	lines    [4096]string
	response string
)

//go:noinline
func handle(random *rand.Rand, size int) int {
	r := &request{path: fmt.Sprintf("/item/%d", random.Intn(100000)), body: make([]byte, size)}
	r.fields = strings.Split(r.path+"/a/b/c", "/")
	sort.Strings(r.fields)
	response = strings.Join(r.fields, ",")
	return len(r.body) + 256
}

//go:noinline
func open(random *rand.Rand) int {
	s := &session{
		id:    fmt.Sprint(random.Int63()),
		data:  make([]byte, 1024+random.Intn(3072)),
		until: time.Now().Add(time.Duration(500+random.Intn(4000)) * time.Millisecond),
		tags:  map[string]string{"user": "someone", "lang": "en"},
	}
	sessions = append(sessions, s)
	return len(s.data) + 512
}

func expire(now time.Time) {
	kept := sessions[:0]
	for _, s := range sessions {
		if s.until.After(now) {
			kept = append(kept, s)
		}
	}
	for i := len(kept); i < len(sessions); i++ {
		sessions[i] = nil
	}
	sessions = kept
}

//go:noinline
func log(random *rand.Rand, n int) int {
	lines[n%len(lines)] = fmt.Sprintf("%d request %d took %d us", n, random.Int31(), random.Intn(9999))
	return 64
}

// work allocates so many bytes a second.
func work(random *rand.Rand, perSecond int) {
	last := time.Now()
	for n := 0; ; {
		time.Sleep(5 * time.Millisecond)
		now := time.Now()
		left := int(now.Sub(last).Seconds() * float64(perSecond))
		last = now
		for left > 0 {
			n++
			left -= handle(random, 256+random.Intn(4096))
			left -= log(random, n)
			if n%8 == 0 {
				left -= open(random)
			}
		}
		expire(now)
	}
}
