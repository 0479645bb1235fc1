//! Why the world was stopped: the numbers that `stopTheWorldWithSema` is called with. Must not know
//! probes or pauses.
//!
//! Go `src/runtime/proc.go`, `stwReason`: compared in 1.21.13, 1.22.10, 1.23.9, 1.24.11, 1.25.5,
//! 1.26.6 and 1.27.3. The 17 numbers and their texts are the same in all of them, so no version is
//! asked for here; a later Go can only be told by comparing again.

/// A `runtime.stwReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StwReason(pub u64);

/// By number: the runtime's own texts.
const TEXTS: [&str; 17] = [
    "unknown",
    "GC mark termination",
    "GC sweep termination",
    "write heap dump",
    "goroutine profile",
    "goroutine profile cleanup",
    "all goroutines stack trace",
    "read mem stats",
    "AllThreadsSyscall",
    "GOMAXPROCS",
    "start trace",
    "stop trace",
    "CountPagesInUse (test)",
    "ReadMetricsSlow (test)",
    "ReadMemStatsSlow (test)",
    "PageCachePagesLeaked (test)",
    "ResetDebugLog (test)",
];

impl StwReason {
    /// The stop that ends a cycle's marking.
    pub const MARK_TERM: Self = Self(1);
    /// The stop that begins a cycle.
    pub const SWEEP_TERM: Self = Self(2);

    /// From the probe's argument register: the type is `uint8`, and the register above it is junk (Go
    /// `src/cmd/compile/internal/ssa/_gen/AMD64Ops.go`: "Integer types live in the low portion of
    /// registers").
    pub const fn from_register(value: u64) -> Self {
        Self(value & 0xff)
    }

    /// The runtime's text; `None` for a number that no known version has.
    pub fn text(self) -> Option<&'static str> {
        usize::try_from(self.0).ok().and_then(|i| TEXTS.get(i)).copied()
    }

    /// Whether the garbage collector stopped the world (`stwReason.isGC`, 1.22+).
    pub const fn is_gc(self) -> bool {
        self.0 == Self::MARK_TERM.0 || self.0 == Self::SWEEP_TERM.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_gc() {
        assert_eq!(StwReason::MARK_TERM.text(), Some("GC mark termination"));
        assert_eq!(StwReason::SWEEP_TERM.text(), Some("GC sweep termination"));
        assert_eq!(StwReason(9).text(), Some("GOMAXPROCS"));
        assert_eq!(StwReason(17).text(), None);
        assert_eq!(StwReason(u64::MAX).text(), None);
        let gc: Vec<u64> = (0..20).filter(|&n| StwReason(n).is_gc()).collect();
        assert_eq!(gc, [1, 2]);
        assert_eq!(StwReason::from_register(0xdead_0002), StwReason::SWEEP_TERM);
    }
}
