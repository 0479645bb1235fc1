//go:build cgo

package main

// static int one(void) { return 1; }
import "C"

// Where it is built with cgo there is C code in it, so that the runtime keeps an M for C's threads.
func init() {
	if C.one() != 1 {
		panic("C")
	}
}
