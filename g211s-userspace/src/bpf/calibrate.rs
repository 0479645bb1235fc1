//! What an allocation probe costs on this machine: measured on an instruction of our own, with the very program that will
//! run. Never on a target.

use g211s_ebpf::event::{SPAN_BYTES, Site};

use super::{BpfError, ProbeRequest, Session, features::own_offset, probe_program};

/// Calls in a batch, and batches: the median counts, since the machine may be busy.
const CALLS: u32 = 200;
const BATCHES: usize = 15;
/// Callers on the stack that is walked: an ordinary depth in a service.
const FRAMES: usize = 24;
/// Threads that hit at once, at most: other programs want CPUs as well.
const THREADS: usize = 4;
/// Bytes that are written between two hits: a span.
const BETWEEN: usize = 8192;
/// Bytes that are written before the same ones come again: more than a CPU's own caches hold.
const MEMORY: usize = 512 * BETWEEN;

unsafe extern "C" {
    /// Hits the probe with AX = `span`, and the frame pointer at `frame`.
    fn g211s_calibrate(span: *const u8, frame: *const u64);
    /// The probed instruction: a branch that the kernel emulates, as it does those in the allocator.
    static g211s_calibrate_here: u8;
}

core::arch::global_asm!(
    ".pushsection .text.g211s_calibrate,\"ax\",@progbits",
    ".globl g211s_calibrate",
    ".globl g211s_calibrate_here",
    ".type g211s_calibrate,@function",
    "g211s_calibrate:",
    "push rbp",
    "mov rbp, rsi",
    "mov rax, rdi",
    "test rax, rax",
    "g211s_calibrate_here:",
    "je 2f",
    "2:",
    "pop rbp",
    "ret",
    ".size g211s_calibrate, . - g211s_calibrate",
    ".popsection",
);

/// What a probe costs on this machine, ns of CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeCost {
    /// Each hit.
    pub hit_ns: u64,
    /// To attach it, or to detach it: the dearer of both.
    pub change_ns: u64,
}

/// What probes do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// Count.
    Count,
    /// Sample an allocation, with its stack.
    Sample,
    /// Sum every allocation by its stack.
    Exact,
}

impl Session {
    /// Measures what a probe costs. Programs that follow allocations must have been loaded for it.
    ///
    /// # Errors
    /// [`BpfError`] if the probe is refused.
    pub fn calibrate(&mut self, kind: ProbeKind) -> Result<ProbeCost, BpfError> {
        let refused = |why: &str| BpfError::Other {
            what: "measuring a probe's cost".into(),
            why: why.into(),
        };
        let here = &raw const g211s_calibrate_here as u64;
        let offset = own_offset(here).ok_or_else(|| refused("/proc/self/maps is unreadable"))?;
        let bare = on_all(here);
        let request = ProbeRequest {
            site: Site::Calibrate,
            file: "/proc/self/exe".into(),
            file_offset: offset,
            pid: std::process::id(),
        };
        let program = match kind {
            ProbeKind::Count => "go_count",
            ProbeKind::Sample => probe_program(Site::Calibrate),
            ProbeKind::Exact => "go_alloc_exact",
        };
        let began = thread_cpu_ns();
        let probe = self.attach_to(program, &request)?;
        let attach_ns = thread_cpu_ns().saturating_sub(began);
        let hit = on_all(here);
        let detached = std::thread::spawn(move || {
            drop(probe);
            thread_cpu_ns()
        });
        let detach_ns = detached.join().unwrap_or(0);
        if kind != ProbeKind::Count {
            self.forget_alloc_sums();
            // What was reserved in the ring and thrown away takes its room until it is passed.
            self.drain(u64::MAX, |_| {});
        }
        Ok(ProbeCost {
            hit_ns: (hit.saturating_sub(bare) / u64::from(CALLS)).max(1),
            change_ns: attach_ns.max(detach_ns),
        })
    }
}

/// CPU time of a batch of calls, ns: the median of all threads'. On several CPUs at once, since hits are in each other's way
/// (the ring's lock, the counters), and with as much memory written between two as a P allocates between two, so
/// that the kernel's code and data are as cold as they will be.
fn on_all(here: u64) -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
    let times = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(|| batches(here))).collect();
        running.into_iter().filter_map(|t| t.join().ok()).flatten().collect()
    });
    median(times)
}

/// CPU time of each of [`BATCHES`] batches, ns.
fn batches(here: u64) -> Vec<u64> {
    let span = [1_u8; SPAN_BYTES];
    // Each frame: where the next is, and a return address.
    let mut frames = vec![0_u64; 2 * FRAMES];
    let base = frames.as_ptr() as u64;
    for i in 0..FRAMES {
        frames[2 * i] = if i + 1 < FRAMES { base + 16 * (i as u64 + 1) } else { 0 };
        frames[2 * i + 1] = here;
    }
    let mut memory = vec![0_u8; MEMORY];
    let mut at = 0;
    let mut batch = || {
        let begin = thread_cpu_ns();
        for n in 0..CALLS {
            std::hint::black_box(&mut memory[at..at + BETWEEN]).fill(n as u8);
            at = (at + BETWEEN) % MEMORY;
            // SAFETY: it reads its arguments, walks nothing itself and restores the frame pointer.
            unsafe { g211s_calibrate(span.as_ptr(), frames.as_ptr()) };
        }
        thread_cpu_ns().saturating_sub(begin)
    };
    // The first one pays for what is cold for good.
    batch();
    (0..BATCHES).map(|_| batch()).collect()
}

/// CPU time of this thread, ns.
fn thread_cpu_ns() -> u64 {
    use nix::sys::time::TimeValLike as _;
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    nix::time::clock_gettime(clock).map_or(0, |t| t.num_nanoseconds() as u64)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
