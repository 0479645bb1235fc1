#include "textflag.h"

// func ticks() uint64
TEXT ·ticks(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func spinUntil(until, gap uint64) (away uint64)
TEXT ·spinUntil(SB), NOSPLIT, $0-24
	MOVQ until+0(FP), R8
	MOVQ gap+8(FP), R9
	XORQ R10, R10
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, R11

again:
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, R12
	SUBQ R11, R12
	MOVQ AX, R11
	CMPQ R12, R9
	JLS  there
	ADDQ R12, R10

there:
	CMPQ AX, R8
	JCS  again
	MOVQ R10, away+16(FP)
	RET
