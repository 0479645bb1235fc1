// Command liveness makes objects, drops them, and says which it still holds, so that what is concluded
// about them from outside can be compared.
//
// It prints `listening -` when it is ready. Collections happen only when they are asked for, until
// `storm`. Commands on standard input, each answered by one line that begins with the command:
//
//	make N      makes N objects of each kind: JSON, [[id, address, size, kind], …]
//	drop P      lets P of 100 of the objects it holds go: JSON, [id, …]
//	churn N     makes N objects of each kind and keeps them, and drops those of the last churn but one
//	gc          collects, and sweeps all: runtime.GC
//	storm N     has N goroutines allocate from now on, and lets the collector run by itself
//	held        JSON, [id, …]
//
// End it by closing its standard input.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"unsafe"
)

// An object is held by one of these, by its kind.
type holder struct {
	tiny    *[8]byte
	small   *[32]byte
	linked  *[4]*byte
	medium  *[512]byte
	linked2 *[64]*byte
	page    *[8192]byte
	linked3 *[1024]*byte
	large   *[65536]byte
	linked4 *[8192]*byte
}

const kinds = 9

// Each in a function of its own, so that no pointer to it stays on the stack.
//
//go:noinline
func create(h *holder, kind int) (uintptr, uintptr) {
	switch kind {
	case 0:
		h.tiny = new([8]byte)
		return uintptr(unsafe.Pointer(h.tiny)), 8
	case 1:
		h.small = new([32]byte)
		return uintptr(unsafe.Pointer(h.small)), 32
	case 2:
		h.linked = new([4]*byte)
		return uintptr(unsafe.Pointer(h.linked)), 32
	case 3:
		h.medium = new([512]byte)
		return uintptr(unsafe.Pointer(h.medium)), 512
	case 4:
		h.linked2 = new([64]*byte)
		return uintptr(unsafe.Pointer(h.linked2)), 512
	case 5:
		h.page = new([8192]byte)
		return uintptr(unsafe.Pointer(h.page)), 8192
	case 6:
		h.linked3 = new([1024]*byte)
		return uintptr(unsafe.Pointer(h.linked3)), 8192
	case 7:
		h.large = new([65536]byte)
		return uintptr(unsafe.Pointer(h.large)), 65536
	default:
		h.linked4 = new([8192]*byte)
		return uintptr(unsafe.Pointer(h.linked4)), 65536
	}
}

var (
	held   = map[int]*holder{}
	churns [2][]*holder
	next   = 1
	random = rand.New(rand.NewSource(1))
	sink   []byte
)

//go:noinline
func makeObjects(n int) [][4]uint64 {
	var made [][4]uint64
	for i := 0; i < n*kinds; i++ {
		// The large ones are fewer.
		kind := i % kinds
		if kind >= 7 && i/kinds%8 != 0 {
			continue
		}
		h := new(holder)
		address, size := create(h, kind)
		held[next] = h
		made = append(made, [4]uint64{uint64(next), uint64(address), uint64(size), uint64(kind)})
		next++
	}
	return made
}

//go:noinline
func drop(percent int) []int {
	dropped := []int{}
	for id := 1; id < next; id++ {
		if held[id] != nil && random.Intn(100) < percent {
			delete(held, id)
			dropped = append(dropped, id)
		}
	}
	return dropped
}

//go:noinline
func churn(n int) {
	churns[0], churns[1] = churns[1], nil
	for i := 0; i < n*kinds; i++ {
		kind := i % kinds
		if kind >= 7 && i/kinds%8 != 0 {
			continue
		}
		h := new(holder)
		create(h, kind)
		churns[1] = append(churns[1], h)
	}
}

// allocate makes garbage, and keeps a little of it for a while.
func allocate(seed int64) {
	random := rand.New(rand.NewSource(seed))
	kept := make([]*holder, 512)
	for {
		h := new(holder)
		create(h, random.Intn(kinds))
		kept[random.Intn(len(kept))] = h
	}
}

// overwrite uses the stack below, where pointers may have been left.
//
//go:noinline
func overwrite(depth int) byte {
	var frame [512]byte
	if depth > 0 {
		frame[depth] = overwrite(depth - 1)
	}
	return frame[(depth*7)%512] + frame[depth]
}

func answer(command string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		fmt.Fprintln(os.Stderr, "liveness:", err)
		os.Exit(1)
	}
	fmt.Printf("%s %s\n", command, text)
}

func main() {
	debug.SetGCPercent(-1)
	fmt.Println("listening -")
	input := bufio.NewScanner(os.Stdin)
	for input.Scan() {
		command, argument, _ := strings.Cut(input.Text(), " ")
		n, _ := strconv.Atoi(argument)
		switch command {
		case "make":
			answer(command, makeObjects(n))
		case "drop":
			answer(command, drop(n))
		case "churn":
			churn(n)
			answer(command, n)
		case "gc":
			overwrite(64)
			runtime.GC()
			answer(command, n)
		case "storm":
			debug.SetGCPercent(50)
			for i := 0; i < n; i++ {
				go allocate(int64(i))
			}
			answer(command, n)
		case "held":
			ids := []int{}
			for id := range held {
				ids = append(ids, id)
			}
			answer(command, ids)
		default:
			fmt.Fprintln(os.Stderr, "liveness: what is", command)
			os.Exit(2)
		}
	}
}
