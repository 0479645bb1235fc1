//go:build pprof

package main

// Keeps the runtime's own memory profile: the linker drops it from programs that never read it.
import _ "net/http/pprof"
