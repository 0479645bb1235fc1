// Command census has goroutines in known states, and counts them itself.
//
// It prints `pid N` and `listening -` when every goroutine is where it is to be. Commands on
// standard input, each answered by a line that begins with the command:
//
//	counts N       JSON: site, state and number of goroutines, from runtime.Stack
//	stacks N       the same with the functions of the stack
//	ops N          iterations of -spin so far
//	where N        the address of the count of the first -spin
//	leak N         leaves N more goroutines behind, from one site
//	corrupt MODE   writes garbage into the runtime's own allgs (see corrupt.go)
//
// N in the first four is anything: it tells answers apart.
//
// End it by closing its standard input.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

var (
	chans    = flag.Int("chan", 0, "goroutines that receive from a channel")
	selects  = flag.Int("select", 0, "goroutines in a select")
	sleeps   = flag.Int("sleep", 0, "goroutines that sleep")
	mutexes  = flag.Int("mutex", 0, "goroutines that wait for a mutex")
	conns    = flag.Int("io", 0, "goroutines that read from a connection")
	syscalls = flag.Int("syscall", 0, "goroutines in a system call")
	spins    = flag.Int("spin", 0, "goroutines that run")
	churn    = flag.Int("churn", 0, "goroutines that start short-lived goroutines")
	deep     = flag.Int("deep", 0, "goroutines that wait below 40 calls")
	gcEvery  = flag.Duration("gc", 0, "collect every so often")
)

var (
	never  = make(chan int)
	never2 = make(chan int)
	mutex  sync.Mutex
	ops    [64]struct {
		n atomic.Uint64
		_ [56]byte
	}
	started sync.WaitGroup
)

func receive() { started.Done(); <-never }

func choose() {
	started.Done()
	select {
	case <-never:
	case <-never2:
	}
}

func sleep() { started.Done(); time.Sleep(24 * time.Hour) }

func lock() { started.Done(); mutex.Lock() }

func read(conn net.Conn) { started.Done(); conn.Read(make([]byte, 1)) }

// A pipe that nobody writes to, read by a raw system call: the thread is blocked, not the poller.
func raw(fd int) { started.Done(); syscall.Read(fd, make([]byte, 1)) }

//go:noinline
func work(x uint64) uint64 { return x*6364136223846793005 + 1442695040888963407 }

func spin(slot int) {
	started.Done()
	x := uint64(slot)
	for {
		for i := 0; i < 1000; i++ {
			x = work(x)
		}
		ops[slot].n.Add(1)
	}
}

func short(wg *sync.WaitGroup) { runtime.Gosched(); wg.Done() }

func mill() {
	started.Done()
	for {
		var wg sync.WaitGroup
		for i := 0; i < 20; i++ {
			wg.Add(1)
			go short(&wg)
		}
		wg.Wait()
	}
}

//go:noinline
func down(n int) int {
	if n == 0 {
		started.Done()
		return <-never
	}
	return down(n-1) + 1
}

func many(n int, start func(i int)) {
	for i := 0; i < n; i++ {
		started.Add(1)
		start(i)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "census:", err)
	os.Exit(1)
}

func pairs(listener net.Listener) net.Conn {
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		fail(err)
	}
	kept = append(kept, client)
	server, err := listener.Accept()
	if err != nil {
		fail(err)
	}
	return server
}

var kept []net.Conn

func main() {
	flag.Parse()
	mutex.Lock()
	many(*chans, func(int) { go receive() })
	many(*selects, func(int) { go choose() })
	many(*sleeps, func(int) { go sleep() })
	many(*mutexes, func(int) { go lock() })
	many(*deep, func(int) { go down(40) })
	if *conns > 0 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fail(err)
		}
		many(*conns, func(int) {
			conn := pairs(listener)
			go read(conn)
		})
	}
	many(*syscalls, func(int) {
		var fds [2]int
		if err := syscall.Pipe(fds[:]); err != nil {
			fail(err)
		}
		go raw(fds[0])
	})
	many(*spins, func(i int) { go spin(i % len(ops)) })
	many(*churn, func(int) { go mill() })
	started.Wait()
	if *gcEvery > 0 {
		go func() {
			for range time.Tick(*gcEvery) {
				runtime.GC()
			}
		}()
	}
	// They have said that they are about to block; now let them.
	time.Sleep(200 * time.Millisecond)
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening -")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		if len(words) != 2 {
			continue
		}
		var answer any = ""
		switch words[0] {
		case "counts":
			answer = count(false)
		case "stacks":
			answer = count(true)
		case "ops":
			var sum uint64
			for i := range ops {
				sum += ops[i].n.Load()
			}
			answer = sum
		case "where":
			answer = uintptr(unsafe.Pointer(&ops[0].n))
		case "leak":
			n, _ := strconv.Atoi(words[1])
			many(n, func(int) { go receive() })
			started.Wait()
		case "corrupt":
			debug.SetGCPercent(-1)
			if err := corrupt(words[1]); err != nil {
				fail(err)
			}
		}
		fmt.Println(words[0], words[1], answer)
	}
}

type group struct {
	Site  string   `json:"site"`
	State string   `json:"state"`
	Stack []string `json:"stack,omitempty"`
	Count int      `json:"count"`
}

// count reads what runtime.Stack prints of all goroutines but the caller.
func count(stacks bool) string {
	buf := make([]byte, 1<<20)
	for n := runtime.Stack(buf, true); n == len(buf); n = runtime.Stack(buf, true) {
		buf = make([]byte, 2*len(buf))
	}
	buf = buf[:strings.IndexByte(string(buf)+"\x00", 0)]
	groups := map[string]*group{}
	for _, text := range strings.Split(strings.TrimSpace(string(buf)), "\n\n") {
		lines := strings.Split(text, "\n")
		// goroutine 7 [chan receive, 3 minutes, locked to thread]:
		open, end := strings.IndexByte(lines[0], '['), strings.LastIndexByte(lines[0], ']')
		if open < 0 || end < open {
			continue
		}
		g := &group{State: strings.Split(lines[0][open+1:end], ",")[0], Site: "main"}
		for i := 1; i+1 < len(lines); i += 2 {
			// \t/path/main.go:41 +0x1d
			place := strings.Fields(lines[i+1])[0]
			if strings.HasPrefix(lines[i], "created by ") {
				g.Site = place
			} else if stacks {
				g.Stack = append(g.Stack, lines[i][:strings.LastIndexByte(lines[i], '(')]+" "+place)
			}
		}
		key := g.Site + "\n" + g.State + "\n" + strings.Join(g.Stack, "\n")
		if groups[key] == nil {
			groups[key] = g
		}
		groups[key].Count++
	}
	list := make([]*group, 0, len(groups))
	for _, g := range groups {
		list = append(list, g)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Count > list[j].Count })
	text, err := json.Marshal(list)
	if err != nil {
		fail(err)
	}
	return string(text)
}
