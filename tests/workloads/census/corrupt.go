package main

import (
	"debug/elf"
	"fmt"
	"math/rand"
	"unsafe"
)

type slice struct{ ptr, len, cap uintptr }

var garbage [][]uintptr

// corrupt overwrites the runtime's list of all goroutines. The addresses come from the executable's
// symbol table, so this needs a plain build that is not position independent.
//
//	len      a length beyond all memory
//	pointer  an array that is not there
//	entries  an array of addresses that are not there, or are not of a goroutine
//	random   an array of goroutines made of random bytes
//	same     an array in which one goroutine stands a million times
//	tail     the real goroutines, then 20,000 addresses as in entries and goroutines as in random
//	long     the same with 200,000
func corrupt(mode string) error {
	symbols, err := addresses("runtime.allgs", "runtime.allglen", "runtime.allgptr")
	if err != nil {
		return err
	}
	// Addresses of the program's own, as numbers: not something that vet can follow.
	at := func(name string) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(symbols[name])) }
	allgs := (*slice)(at("runtime.allgs"))
	allglen := (*uintptr)(at("runtime.allglen"))
	allgptr := (*uintptr)(at("runtime.allgptr"))
	first := *(*uintptr)(unsafe.Pointer(*(**uintptr)(unsafe.Pointer(&allgs.ptr))))
	use := func(array []uintptr) {
		garbage = append(garbage, array)
		ptr := uintptr(unsafe.Pointer(&array[0]))
		*allgs = slice{ptr, uintptr(len(array)), uintptr(len(array))}
		*allgptr, *allglen = ptr, uintptr(len(array))
	}
	random := rand.New(rand.NewSource(1))
	switch mode {
	case "len":
		allgs.len, allgs.cap, *allglen = 1<<45, 1<<45, 1<<45
	case "pointer":
		allgs.ptr, *allgptr = 0xdead0000, 0xdead0000
	case "entries":
		array := make([]uintptr, 100_000)
		for i := range array {
			array[i] = uintptr(random.Uint64() >> uint(random.Intn(60)))
		}
		array[0] = first
		use(array)
	case "random":
		bytes := make([]uintptr, 1_000_000)
		for i := range bytes {
			bytes[i] = uintptr(random.Uint64() >> uint(random.Intn(60)))
		}
		garbage = append(garbage, bytes)
		array := make([]uintptr, 10_000)
		for i := range array {
			array[i] = uintptr(unsafe.Pointer(&bytes[i*57]))
		}
		array[0] = first
		use(array)
	case "same":
		array := make([]uintptr, 1_000_000)
		for i := range array {
			array[i] = first
		}
		use(array)
	case "tail", "long":
		n := 20_000
		if mode == "long" {
			n = 200_000
		}
		array := append([]uintptr{}, unsafe.Slice((*uintptr)(*(*unsafe.Pointer)(unsafe.Pointer(&allgs.ptr))), allgs.len)...)
		bytes := make([]uintptr, 1_000_000)
		for i := range bytes {
			bytes[i] = uintptr(random.Uint64() >> uint(random.Intn(60)))
		}
		garbage = append(garbage, bytes)
		for i := 0; i < n; i++ {
			if i%2 == 0 {
				array = append(array, uintptr(random.Uint64()>>uint(random.Intn(60))))
			} else {
				array = append(array, uintptr(unsafe.Pointer(&bytes[random.Intn(990_000)])))
			}
		}
		use(array)
	default:
		return fmt.Errorf("corrupt %s?", mode)
	}
	return nil
}

func addresses(names ...string) (map[string]*uintptr, error) {
	file, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	symbols, err := file.Symbols()
	if err != nil {
		return nil, err
	}
	found := map[string]*uintptr{}
	for _, name := range names {
		for _, symbol := range symbols {
			if symbol.Name == name {
				address := uintptr(symbol.Value)
				found[name] = &address
			}
		}
		if found[name] == nil {
			return nil, fmt.Errorf("no symbol %s", name)
		}
	}
	return found, nil
}
