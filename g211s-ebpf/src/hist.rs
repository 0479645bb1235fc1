//! Log-linear histograms that the kernel side fills and user space reads: 32 linear sub-buckets
//! per power of two, so a bucket is at most 3.2 % wide and its middle at most 1.6 % off.

/// Sub-buckets per octave, as a power of two.
pub const SUB_BITS: u32 = 5;
/// Values of 2^`MAX_BITS` ns (36 minutes) and more share the last bucket.
pub const MAX_BITS: u32 = 41;
/// Buckets of one histogram.
pub const BUCKETS: usize = ((MAX_BITS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Floor of the binary logarithm, without the `clz` that BPF lacks. `v` must not be 0.
#[inline(always)]
pub const fn log2(v: u64) -> u32 {
    let mut v = v;
    let mut r = 0;
    if v >= 1 << 32 {
        v >>= 32;
        r += 32;
    }
    if v >= 1 << 16 {
        v >>= 16;
        r += 16;
    }
    if v >= 1 << 8 {
        v >>= 8;
        r += 8;
    }
    if v >= 1 << 4 {
        v >>= 4;
        r += 4;
    }
    if v >= 1 << 2 {
        v >>= 2;
        r += 2;
    }
    if v >= 2 {
        r += 1;
    }
    r
}

/// Bucket of a value in ns; always below [`BUCKETS`].
#[inline(always)]
pub const fn bucket_of(v: u64) -> usize {
    if v < 1 << SUB_BITS {
        return v as usize;
    }
    let e = log2(v);
    if e >= MAX_BITS {
        return BUCKETS - 1;
    }
    let sub = (v >> (e - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (((e - SUB_BITS + 1) << SUB_BITS) as usize) + sub as usize
}

/// Lowest value of a bucket, and the number of values it spans.
pub const fn bucket_range(bucket: usize) -> (u64, u64) {
    let sub = 1usize << SUB_BITS;
    if bucket < sub {
        return (bucket as u64, 1);
    }
    let e = (bucket >> SUB_BITS) as u32 + SUB_BITS - 1;
    let low = (sub + (bucket & (sub - 1))) as u64;
    (low << (e - SUB_BITS), 1 << (e - SUB_BITS))
}

/// Which histogram, within one target.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hist {
    /// Wakeup → running, begun while no GC cycle ran.
    WokenOutside = 0,
    /// Wakeup → running, begun in a GC cycle but in no stop-the-world.
    WokenInGc = 1,
    /// Wakeup → running, begun in a stop-the-world (of any reason).
    WokenInStw = 2,
    /// Preempted → running, begun while no GC cycle ran.
    PreemptedOutside = 3,
    /// Preempted → running, begun in a GC cycle but in no stop-the-world.
    PreemptedInGc = 4,
    /// Preempted → running, begun in a stop-the-world (of any reason).
    PreemptedInStw = 5,
    /// `sched_yield` → running, any time.
    Yielded = 6,
    /// Length of one stay on a CPU.
    OnCpu = 7,
    /// One sleep in an `epoll_wait`, from leaving the CPU to being on one again.
    EpollWait = 8,
    /// Woken from a sleeping `epoll_wait` → running: how late the network was served.
    EpollLate = 9,
    /// A socket of an epoll set became ready → the set's ready sockets were taken (`ep_poll_callback`).
    ReadyHarvested = 10,
    /// One `gcParkAssist`, while its probes are attached.
    AssistPark = 11,
    /// A P kept by a thread asleep in a system call, until the runtime took it away.
    PTaken = 12,
    /// A P kept by a thread asleep in a system call, until the thread ran again.
    PKept = 13,
    /// A P kept by a thread that was preempted or in a page fault.
    PDescheduled = 14,
}

/// Histograms per target.
pub const HISTS: usize = 15;

/// One histogram as a map value.
#[repr(C)]
#[derive(Clone, Copy)]
#[cfg_attr(
    not(target_arch = "bpf"),
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
pub struct HistData {
    /// Values recorded.
    pub count: u64,
    /// Their sum, ns.
    pub sum: u64,
    /// The largest, ns.
    pub max: u64,
    /// Values per bucket.
    pub buckets: [u64; BUCKETS],
}

impl HistData {
    /// No values.
    pub const EMPTY: Self = Self { count: 0, sum: 0, max: 0, buckets: [0; BUCKETS] };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_partition_the_line() {
        let mut next = 0;
        for b in 0..BUCKETS {
            let (low, width) = bucket_range(b);
            assert_eq!(low, next, "bucket {b} begins where the one before ends");
            assert_eq!(bucket_of(low), b);
            assert_eq!(bucket_of(low + width - 1), b);
            next = low + width;
        }
        assert_eq!(next, 1 << MAX_BITS);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn log2_agrees_with_the_standard_library() {
        for shift in 0..64 {
            let v = 1u64 << shift;
            assert_eq!(log2(v), v.ilog2());
            assert_eq!(log2(v | (v >> 1)), (v | (v >> 1)).ilog2());
        }
    }
}
