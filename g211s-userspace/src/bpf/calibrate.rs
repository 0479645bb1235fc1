//! What a hit of an allocation probe costs on this machine: measured on an instruction of our own, with the very
//! program that will run. Never on a target.

use g211s_ebpf::event::{SPAN_BYTES, Site};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};

use super::{BpfError, ProbeRequest, Session, features::own_offset, probe_program};

/// Calls in a batch, and batches: the median counts, since the machine may be busy.
const CALLS: u32 = 200;
const BATCHES: usize = 15;
/// Callers on the stack that is walked: an ordinary depth in a service.
const FRAMES: usize = 24;

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

impl Session {
    /// Measures a hit, ns; `exact`: of the probes that count every allocation.
    ///
    /// # Errors
    /// [`BpfError`] if the probe is refused.
    pub fn calibrate(&mut self, exact: bool) -> Result<u64, BpfError> {
        let refused = |why: &str| BpfError::Other {
            what: "measuring a probe's cost".into(),
            why: why.into(),
        };
        let here = &raw const g211s_calibrate_here as u64;
        let offset = own_offset(here).ok_or_else(|| refused("/proc/self/maps is unreadable"))?;
        let span = [1_u8; SPAN_BYTES];
        // Each frame: where the next is, and a return address.
        let mut frames = vec![0_u64; 2 * FRAMES];
        let base = frames.as_ptr() as u64;
        for i in 0..FRAMES {
            frames[2 * i] = if i + 1 < FRAMES { base + 16 * (i as u64 + 1) } else { 0 };
            frames[2 * i + 1] = here;
        }
        let batch = || {
            // In CPU time: on a busy machine a batch is interrupted for longer than it takes.
            let begin = cpu_ns();
            for _ in 0..CALLS {
                // SAFETY: it reads its arguments, walks nothing itself and restores the frame pointer.
                unsafe { g211s_calibrate(span.as_ptr(), frames.as_ptr()) };
            }
            cpu_ns().saturating_sub(begin)
        };
        let bare = median((0..BATCHES).map(|_| batch()).collect());
        let request = ProbeRequest {
            site: Site::Calibrate,
            file: "/proc/self/exe".into(),
            file_offset: offset,
            pid: std::process::id(),
        };
        let program = if exact { "go_alloc_exact" } else { probe_program(Site::Calibrate) };
        let probe = self.attach_to(program, &request)?;
        // The first hits pay for what is cold.
        batch();
        let hit = median((0..BATCHES).map(|_| batch()).collect());
        drop(super::detach(vec![probe]));
        self.forget_alloc_sums();
        Ok((hit.saturating_sub(bare) / u64::from(CALLS)).max(1))
    }
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |t| t.num_nanoseconds() as u64)
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
