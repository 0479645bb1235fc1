package main

import (
	"errors"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const page = 4096

var touched byte

// faultPages reads the next page of a file through memory, again and again.
func faultPages(s Settings, log *Log) error {
	file, size, err := open(s.file)
	if err != nil {
		return err
	}
	data, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	jitter := newJitter(s.seed)
	go func() {
		for at := 0; at < size; at += page {
			time.Sleep(jitter.of(s.every))
			from := now()
			touched = data[at]
			log.add(Span{"fault", from, now(), 0})
		}
	}()
	return nil
}

// blockInSyscalls reads the next page by a system call of which the runtime is not told: the P stays
// with the thread.
func blockInSyscalls(s Settings, log *Log) error {
	return read(s, log, 1, func(fd int, buffer []byte, at int) {
		syscall.RawSyscall6(syscall.SYS_PREAD64, uintptr(fd), uintptr(unsafe.Pointer(&buffer[0])),
			uintptr(len(buffer)), uintptr(at), 0, 0)
	})
}

// leavePsInSyscalls does so by ordinary system calls, from as many goroutines as are told: each P stays
// with its thread until the runtime's monitor takes it away.
func leavePsInSyscalls(s Settings, log *Log) error {
	return read(s, log, s.count, func(fd int, buffer []byte, at int) {
		syscall.Pread(fd, buffer, int64(at))
	})
}

func read(s Settings, log *Log, readers int, one func(fd int, buffer []byte, at int)) error {
	file, size, err := open(s.file)
	if err != nil {
		return err
	}
	fd := int(file.Fd())
	var next atomic.Int64
	for i := 0; i < readers; i++ {
		jitter := newJitter(s.seed + int64(i))
		go func() {
			defer runtime.KeepAlive(file)
			buffer := make([]byte, page)
			for {
				time.Sleep(jitter.of(s.every))
				at := int(next.Add(page)) - page
				if at >= size {
					return
				}
				from := now()
				one(fd, buffer, at)
				log.add(Span{"read", from, now(), 0})
			}
		}()
	}
	return nil
}

func open(path string) (*os.File, int, error) {
	if path == "" {
		return nil, 0, errors.New("this mode needs -file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	return file, int(info.Size()), nil
}
