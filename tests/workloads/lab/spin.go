package main

import "time"

// A thread that does not look at the time for longer was not on its CPU.
const offCPU = 50 * time.Microsecond

// spinUntil runs in assembly, which the runtime cannot preempt, until the time stamp counter says so;
// it sums up those steps between two looks at it that are longer than gap.
func spinUntil(until, gap uint64) (away uint64)

func ticks() uint64

// loopUntil is the same in Go. With GODEBUG=asyncpreemptoff=1 a loop that calls nothing with a
// stack of its own has no point at which it could be preempted.
//
//go:noinline
func loopUntil(until, gap uint64) (away uint64) {
	x := until
	for last := ticks(); last < until; {
		// So that it is this function where the time goes, and not the one that reads the clock.
		for i := uint64(0); i < 1000; i++ {
			x = x*6364136223846793005 + i
		}
		now := ticks()
		if now-last > gap {
			away += now - last
		}
		last = now
	}
	worked = x
	return away
}

// What the loop comes to, so that the compiler keeps it.
var worked uint64

func spinInAssembly(s Settings, log *Log) error { return spin(s, log, spinUntil) }

func spinInGo(s Settings, log *Log) error { return spin(s, log, loopUntil) }

func spin(s Settings, log *Log, code func(until, gap uint64) uint64) error {
	perNs := ticksPerNs()
	jitter := newJitter(s.seed)
	go func() {
		for {
			time.Sleep(jitter.of(s.every))
			length := float64(jitter.of(s.last))
			from := now()
			away := code(ticks()+uint64(length*perNs), uint64(float64(offCPU)*perNs))
			log.add(Span{"spin", from, now(), int64(float64(away) / perNs)})
		}
	}()
	return nil
}

func ticksPerNs() float64 {
	from, at := ticks(), time.Now()
	time.Sleep(30 * time.Millisecond)
	return float64(ticks()-from) / float64(time.Since(at))
}
