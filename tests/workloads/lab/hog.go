package main

import (
	"runtime"
	"time"
)

// hog uses a CPU up, and notes when it had it: whenever its clock jumps it had not.
func hog(_ Settings, log *Log) error {
	go func() {
		runtime.LockOSThread()
		from := now()
		for last := from; ; {
			at := now()
			if at-last > int64(offCPU)/2 {
				if last-from > int64(100*time.Microsecond) {
					log.add(Span{"ran", from, last, 0})
				}
				from = at
			}
			last = at
		}
	}()
	return nil
}
