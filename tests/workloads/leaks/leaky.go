package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

// An amount of bytes that is made in whole objects, and what was made of it.
type budget struct {
	left int
	sum  atomic.Int64
}

// take says whether there is enough for one more.
func (b *budget) take(size int) bool {
	if b.left < size {
		return false
	}
	b.left -= size
	b.sum.Add(int64(size))
	return true
}

func (b *budget) held() int64 { return b.sum.Load() }

// fill uses memory, as what reads into it would: what was never written to takes none.
func fill(buffer []byte) {
	for i := 0; i < len(buffer); i += 4096 {
		buffer[i] = byte(i)
	}
}

// A goroutine that waits for an answer that never comes, with what it was to work on.
type goroutines struct {
	budget
	size  int
	never chan int
}

func newGoroutines(random *rand.Rand) leaker {
	return &goroutines{size: 6<<10 + random.Intn(4<<10), never: make(chan int)}
}

func (l *goroutines) step(n int) {
	l.left += n
	// Its stack comes to the buffer.
	for l.take(l.size + 2048) {
		buffer := here(make([]byte, l.size))
		fill(buffer)
		go func() {
			<-l.never
			buffer[0] = 1
		}()
	}
}

// A map whose keys never come again.
type growingMap struct {
	budget
	size int
	next int
	m    map[string][]byte
}

func newGrowingMap(random *rand.Rand) leaker {
	return &growingMap{size: 1<<10 + random.Intn(2<<10), m: map[string][]byte{}}
}

func (l *growingMap) step(n int) {
	l.left += n
	for l.take(l.size + 128) {
		l.next++
		l.m[fmt.Sprintf("session-%d", l.next)] = here(make([]byte, l.size))
	}
}

// A few bytes of a large read are kept, and with them all of it.
type subslices struct {
	budget
	size    int
	headers [][]byte
}

func newSubslices(random *rand.Rand) leaker {
	return &subslices{size: 16<<10 + random.Intn(48<<10)}
}

func (l *subslices) step(n int) {
	l.left += n
	for l.take(l.size) {
		message := here(make([]byte, l.size))
		fill(message)
		l.headers = append(l.headers, message[:16])
	}
}

// A channel that nobody reads: what does not fit waits in senders.
type channel struct {
	budget
	size  int
	queue chan *[]byte
}

func newChannel(random *rand.Rand) leaker {
	return &channel{size: 2<<10 + random.Intn(2<<10), queue: make(chan *[]byte, 100)}
}

func (l *channel) step(n int) {
	l.left += n
	for l.take(l.size + 2048) {
		event := here(make([]byte, l.size))
		fill(event)
		select {
		case l.queue <- &event:
		default:
			go func() { l.queue <- &event }()
		}
	}
}

// Answers whose body is never closed: each keeps its connection, and what reads and writes it.
type responses struct {
	budget
	client *http.Client
	url    string
	kept   []*http.Response
}

// What one of them keeps on both sides, about: buffers of 4 KB for each direction, stacks, connections.
const perResponse = 40 << 10

func newResponses(*rand.Rand) leaker {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		os.Exit(1)
	}
	answer := bytes.Repeat([]byte("answer "), 1024)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(answer)
	}))
	return &responses{client: &http.Client{}, url: "http://" + listener.Addr().String()}
}

func (l *responses) step(n int) {
	l.left += n
	for l.take(perResponse) {
		answer, err := here2(l.client.Get(l.url))
		if err != nil {
			fmt.Fprintln(os.Stderr, "leaks:", err)
			os.Exit(1)
		}
		// Not closed, and not read to its end.
		io.ReadFull(answer.Body, make([]byte, 16))
	}
}

func here2[A, B any](a A, b B) (A, B) {
	told.Do(tell)
	return a, b
}

// A list that is only ever appended to.
type globalSlice struct {
	budget
	size int
}

type record struct {
	name    string
	payload []byte
	next    *record
}

var records []*record

func newGlobalSlice(random *rand.Rand) leaker { return &globalSlice{size: 512 + random.Intn(1024)} }

func (l *globalSlice) step(n int) {
	l.left += n
	for l.take(l.size + 64) {
		records = append(records, &record{name: "entry", payload: here(make([]byte, l.size))})
	}
}

// Buffers from a pool of which one in a few is not only put back but kept as well, and that grow: the
// pool has to make new ones all the time.
type pool struct {
	budget
	pool   sync.Pool
	random *rand.Rand
	size   int
	kept   []*bytes.Buffer
}

func newPool(random *rand.Rand) leaker {
	l := &pool{random: random, size: 8<<10 + random.Intn(24<<10)}
	l.pool.New = func() any { return new(bytes.Buffer) }
	return l
}

func (l *pool) step(n int) {
	l.left += n
	for l.take(l.size) {
		buffer := l.pool.Get().(*bytes.Buffer)
		buffer.Reset()
		if buffer.Cap() < l.size {
			*buffer = *bytes.NewBuffer(here(make([]byte, 0, l.size)))
		}
		fill(buffer.AvailableBuffer()[:buffer.Available()])
		buffer.WriteString("rendered")
		// Whoever asked for it still has it, so it is not put back: l.pool.Put(buffer).
		l.kept = append(l.kept, buffer)
		// Others are, as they should be.
		other := l.pool.Get().(*bytes.Buffer)
		other.Reset()
		other.WriteString("short")
		if other.Cap() < 1024 {
			l.pool.Put(other)
		}
	}
}

// Callbacks that are registered with each request and never removed, each with what it captured.
type callbacks struct {
	budget
	size int
	all  []func() int
}

func newCallbacks(random *rand.Rand) leaker { return &callbacks{size: 1<<10 + random.Intn(3<<10)} }

func (l *callbacks) step(n int) {
	l.left += n
	for l.take(l.size + 64) {
		context := here(make([]byte, l.size))
		l.all = append(l.all, func() int { return len(context) + int(context[0]) })
	}
}
