// Command frames says what the Go runtime itself makes of addresses in this program: the truth for
// g211s's own look-ups. It reads addresses (hexadecimal, one a line, as linked) from its standard
// input and prints for each `function file:line` of the innermost function at that instruction.
//
// It links net/http for a text worth looking up in.
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
)

var keep http.Handler = http.NotFoundHandler()

func main() {
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		pc, err := strconv.ParseUint(in.Text(), 16, 64)
		if err != nil {
			fmt.Fprintln(os.Stderr, "frames:", err)
			os.Exit(1)
		}
		// CallersFrames takes return addresses.
		frame, _ := runtime.CallersFrames([]uintptr{uintptr(pc) + 1}).Next()
		fmt.Fprintf(out, "%s %s:%d\n", frame.Function, frame.File, frame.Line)
	}
}
