// A program that allocates in many ways and writes its own heap profile when told to: what g211s reads from its
// memory must be the same to the byte.
//
// On standard input, one command a line:
//
//	grow N        keep N more objects of each kind
//	drop          keep nothing any more
//	profile FILE  collect garbage, then write FILE (pprof's format) and FILE.txt (counts as the runtime has them)
//	churn N       start N goroutines that allocate and collect until the end
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
)

// As early as can be: what is allocated before is sampled at the runtime's own rate.
var rate = func() int {
	for i, arg := range os.Args {
		if arg == "-rate" && i+1 < len(os.Args) {
			if n, err := strconv.Atoi(os.Args[i+1]); err == nil {
				runtime.MemProfileRate = n
				return n
			}
		}
	}
	return runtime.MemProfileRate
}()

type node struct {
	next *node
	data [40]byte
}

type pair[T any] struct {
	a, b T
}

var (
	list    *node
	blobs   [][]byte
	tables  []map[int]string
	texts   []string
	pairs   []*pair[int64]
	strs    []*pair[string]
	deep    [][]int
	closure []func() int
)

// Inlined into its caller, and that into its own.
func newNode(next *node) *node { return &node{next: next} }

func push() { list = newNode(list) }

//go:noinline
func blob(n int) []byte { return make([]byte, n) }

//go:noinline
func table(i int) map[int]string {
	m := make(map[int]string)
	for k := 0; k < 20; k++ {
		m[k*i] = "x"
	}
	return m
}

//go:noinline
func text(i int) string {
	var b strings.Builder
	for k := 0; k < 30; k++ {
		b.WriteString("some text ")
		b.WriteString(strconv.Itoa(i))
	}
	return b.String()
}

//go:noinline
func pairOf[T any](a, b T) *pair[T] { return &pair[T]{a, b} }

//go:noinline
func recurse(depth int) []int {
	if depth == 0 {
		return make([]int, 100)
	}
	return recurse(depth - 1)
}

//go:noinline
func counter() func() int {
	var n [30]int
	return func() int { n[0]++; return n[0] }
}

func grow(n int) {
	for i := 0; i < n; i++ {
		push()
		tables = append(tables, table(i))
		texts = append(texts, text(i))
		pairs = append(pairs, pairOf[int64](1, 2))
		strs = append(strs, pairOf("a", "b"))
		closure = append(closure, counter())
		if i%16 == 0 {
			blobs = append(blobs, blob(300<<10))
		}
		// Deeper than the stacks that the runtime keeps.
		deep = append(deep, recurse(i%300))
	}
}

func profile(file string) error {
	runtime.GC()
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	// Both write what the collection has published; what they allocate themselves comes with the next.
	if err := pprof.Lookup("heap").WriteTo(out, 0); err != nil {
		return err
	}
	text, err := os.Create(file + ".txt")
	if err != nil {
		return err
	}
	defer text.Close()
	return pprof.Lookup("heap").WriteTo(text, 1)
}

func churn() {
	for {
		for i := 0; i < 100; i++ {
			_ = recurse(i % 200)
			_ = text(i)
			_ = blob(20 << 10)
		}
		runtime.GC()
	}
}

func main() {
	flag.Int("rate", rate, "bytes allocated per sample")
	collect := flag.Bool("collect", false, "let garbage be collected at other times too")
	flag.Parse()
	if !*collect {
		debug.SetGCPercent(-1)
	}
	fmt.Println("listening -")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		if len(words) == 0 {
			continue
		}
		var err error
		n := 0
		if len(words) > 1 {
			n, _ = strconv.Atoi(words[1])
		}
		switch words[0] {
		case "grow":
			grow(n)
		case "drop":
			list, blobs, tables, texts, pairs, strs, deep, closure =
				nil, nil, nil, nil, nil, nil, nil, nil
		case "profile":
			err = profile(words[1])
		case "churn":
			for i := 0; i < n; i++ {
				go churn()
			}
		}
		fmt.Println("done", words[0], err)
	}
	// A closed input is no reason to end.
	time.Sleep(time.Hour)
}
