// Command stackgrow calls main.grow an exactly known number of times, on fresh goroutines whose
// stacks have to grow (so the function's prologue runs more often than the function): proves that
// an entry probe counts each call once.
//
// It prints `pid N` and `listening none`, then for each line on its standard input does its calls
// and prints `round R calls N`, with the calls of all rounds so far. It ends at the end of its input or on SIGTERM.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"sync"
)

//go:noinline
func grow(depth int) int {
	var frame [64]int
	frame[depth%len(frame)] = depth
	if depth == 0 {
		return frame[0]
	}
	return grow(depth-1) + frame[depth%len(frame)]
}

func main() {
	goroutines := flag.Int("g", 100, "goroutines a round")
	depth := flag.Int("depth", 99, "recursion depth")
	flag.Parse()
	fmt.Println("pid", os.Getpid())
	fmt.Println("listening none")
	input := bufio.NewScanner(os.Stdin)
	for round := 1; input.Scan(); round++ {
		var wg sync.WaitGroup
		for i := 0; i < *goroutines; i++ {
			wg.Add(1)
			go func() {
				defer wg.Done()
				grow(*depth)
			}()
		}
		wg.Wait()
		fmt.Println("round", round, "calls", round**goroutines*(*depth+1))
	}
}
