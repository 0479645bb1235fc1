//! Why Go stopped the world: `stwReason` of Go's `runtime/proc.go`, which is the same table from
//! Go 1.21 to 1.27 (sources compared). Must not know how a reason was read.

use crate::go::version::GoVersion;

/// `runtime.stwReason`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the runtime's own; `text` gives its words")]
pub enum StwReason {
    Unknown = 0,
    GcMarkTermination = 1,
    GcSweepTermination = 2,
    WriteHeapDump = 3,
    GoroutineProfile = 4,
    GoroutineProfileCleanup = 5,
    AllGoroutinesStack = 6,
    ReadMemStats = 7,
    AllThreadsSyscall = 8,
    GoMaxProcs = 9,
    StartTrace = 10,
    StopTrace = 11,
    ForTestCountPagesInUse = 12,
    ForTestReadMetricsSlow = 13,
    ForTestReadMemStatsSlow = 14,
    ForTestPageCachePagesLeaked = 15,
    ForTestResetDebugLog = 16,
}

impl StwReason {
    const ALL: [Self; 17] = [
        Self::Unknown,
        Self::GcMarkTermination,
        Self::GcSweepTermination,
        Self::WriteHeapDump,
        Self::GoroutineProfile,
        Self::GoroutineProfileCleanup,
        Self::AllGoroutinesStack,
        Self::ReadMemStats,
        Self::AllThreadsSyscall,
        Self::GoMaxProcs,
        Self::StartTrace,
        Self::StopTrace,
        Self::ForTestCountPagesInUse,
        Self::ForTestReadMetricsSlow,
        Self::ForTestReadMemStatsSlow,
        Self::ForTestPageCachePagesLeaked,
        Self::ForTestResetDebugLog,
    ];

    /// The reason with the runtime's number `n`. Its type is `uint8`: only the low byte of the register counts.
    pub fn from_number(n: u64) -> Option<Self> {
        Self::ALL.get(usize::from(n as u8)).copied()
    }

    /// The runtime's own words (`stwReasonStrings`).
    pub fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::GcMarkTermination => "GC mark termination",
            Self::GcSweepTermination => "GC sweep termination",
            Self::WriteHeapDump => "write heap dump",
            Self::GoroutineProfile => "goroutine profile",
            Self::GoroutineProfileCleanup => "goroutine profile cleanup",
            Self::AllGoroutinesStack => "all goroutines stack trace",
            Self::ReadMemStats => "read mem stats",
            Self::AllThreadsSyscall => "AllThreadsSyscall",
            Self::GoMaxProcs => "GOMAXPROCS",
            Self::StartTrace => "start trace",
            Self::StopTrace => "stop trace",
            Self::ForTestCountPagesInUse => "CountPagesInUse (test)",
            Self::ForTestReadMetricsSlow => "ReadMetricsSlow (test)",
            Self::ForTestReadMemStatsSlow => "ReadMemStatsSlow (test)",
            Self::ForTestPageCachePagesLeaked => "PageCachePagesLeaked (test)",
            Self::ForTestResetDebugLog => "ResetDebugLog (test)",
        }
    }

    /// Whether the stop belongs to a GC cycle (`stwReason.isGC`).
    pub fn is_gc(self) -> bool {
        matches!(self, Self::GcMarkTermination | Self::GcSweepTermination)
    }
}

/// Text of reason number `n`; unknown numbers are shown as numbers.
pub fn stw_reason_text(n: u64) -> String {
    StwReason::from_number(n).map_or_else(|| format!("reason {}", n as u8), |r| r.text().to_owned())
}

/// Minor version of a Go release: `go1.27.3-X:boringcrypto` → 27; development versions have none.
pub fn go_minor(version: &str) -> Option<u32> {
    GoVersion::parse(version).filter(|v| !v.devel).map(|v| v.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_runtimes() {
        for (i, reason) in StwReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
        assert_eq!(StwReason::from_number(0xffff_ff02), Some(StwReason::GcSweepTermination));
        assert_eq!(stw_reason_text(17), "reason 17");
    }

    #[test]
    fn versions() {
        assert_eq!(go_minor("go1.27.3-X:boringcrypto"), Some(27));
        assert_eq!(go_minor("go1.21"), Some(21));
        assert_eq!(go_minor("go1.22rc1"), Some(22));
        assert_eq!(go_minor("devel go1.28-abcdef"), None);
        assert_eq!(go_minor(""), None);
    }
}
