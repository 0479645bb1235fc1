#include "textflag.h"

// func burn(n uint64)
//
// Counts n down. Assembly has no safe points, so a signal finds nothing to preempt here.
TEXT ·burn(SB), NOSPLIT, $0-8
	MOVQ n+0(FP), CX
again:
	DECQ CX // busy: from this line …
	JNZ  again // … to this one
	RET
