//! What this kernel and these privileges allow, found by trying: each capability yes or no, with
//! why and what its absence costs. Must not know targets.

use std::{fs, path::Path};

use aya::{
    Btf, EbpfLoader,
    maps::MapType,
    programs::{
        FEntry, PerfEvent, ProgramError,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::KernelVersion,
};
use serde::Serialize;

use super::{
    BpfError, IRQS_UNSEEN, LoadOptions, NEEDS, OBJECT, POLLS_UNCOUNTED, Session, VMLINUX_BTF,
    failed, kernel_btf::KernelFacts, program,
};
use crate::{governor::EXACT_SYSCALLS, record::PollSource};

/// One capability.
#[derive(Clone, Debug, Serialize)]
pub struct Capability {
    /// What, e.g. `tp_btf`.
    pub name: &'static str,
    /// Whether it works.
    pub ok: bool,
    /// Whether nothing works without it.
    pub required: bool,
    /// What was found.
    pub why: String,
    /// What the user loses without it; empty if it works.
    pub costs: String,
}

/// Linux capabilities that matter here, by bit (include/uapi/linux/capability.h).
const CAPS: [(u32, &str); 5] = [
    (2, "CAP_DAC_READ_SEARCH"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Tries everything. Attaches for an instant what it tries; watches nothing.
pub fn probe() -> Vec<Capability> {
    let mut all = vec![kernel(), privileges(), btf(), ring_buffer()];
    all.extend(programs());
    all.push(bpf_stats());
    all
}

fn capability(
    name: &'static str,
    required: bool,
    found: Result<String, String>,
    costs: &str,
) -> Capability {
    let ok = found.is_ok();
    Capability {
        name,
        ok,
        required,
        why: found.unwrap_or_else(|e| e),
        costs: if ok { String::new() } else { costs.to_owned() },
    }
}

/// Not required itself: a distribution may have put what is needed into an older kernel. Whether the
/// programs load decides.
fn kernel() -> Capability {
    let found = if kernel_is_old() {
        Err(format!("kernel {}: {NEEDS}", release()))
    } else {
        Ok(format!("{} {}", release(), arch()))
    };
    let costs = "g211s can attach only if this kernel has them backported: tp_btf and uprobes tell";
    capability("kernel", false, found, costs)
}

/// Older than the oldest that has all that is needed.
pub(super) fn kernel_is_old() -> bool {
    KernelVersion::current().is_ok_and(|v| v < KernelVersion::new(5, 15, 0))
}

pub(super) fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "?".into(), |s| s.trim().to_owned())
}

fn arch() -> &'static str {
    std::env::consts::ARCH
}

fn privileges() -> Capability {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|s| u64::from_str_radix(s.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 == 1;
    // Before 5.8 there was only CAP_SYS_ADMIN, and it still covers the two newer ones.
    let covered = |bit| has(bit) || (matches!(bit, 38 | 39) && has(21));
    let missing: Vec<_> =
        CAPS.iter().filter(|&&(b, _)| b != 21 && !covered(b)).map(|&(_, n)| n).collect();
    let found = if missing.is_empty() {
        Ok("CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH are there".into())
    } else {
        Err(format!("missing {}: run as root", missing.join(", ")))
    };
    capability("privileges", true, found, "g211s cannot attach")
}

fn btf() -> Capability {
    let found = fs::read(VMLINUX_BTF)
        .map_err(|e| format!("{VMLINUX_BTF}: {e} (CONFIG_DEBUG_INFO_BTF)"))
        .and_then(|b| KernelFacts::from_btf(&b).map_err(|e| e.to_string()))
        .map(|f| {
            let how = if f.has_prev_state { "passes" } else { "does not pass" };
            format!("{VMLINUX_BTF} is readable; sched_switch {how} the previous state")
        });
    capability("btf", true, found, "g211s cannot attach")
}

fn ring_buffer() -> Capability {
    let found = match aya::sys::is_map_supported(MapType::RingBuf) {
        Ok(true) => Ok("BPF_MAP_TYPE_RINGBUF works".into()),
        Ok(false) => Err("this kernel has no BPF ring buffer; g211s needs 5.8+".into()),
        Err(e) => Err(format!("trying to make one failed: {e}")),
    };
    capability("ring_buffer", true, found, "g211s cannot attach")
}

fn programs() -> Vec<Capability> {
    let options = LoadOptions {
        threshold_ns: u64::MAX,
        full: false,
        ring_bytes: 1 << 16,
        tgids: vec![std::process::id()],
        threads: 1024,
        irqs: true,
        kernel_log: false,
        allocs: false,
    };
    let session = Session::load(&options);
    let mut all = Vec::new();
    match session {
        Err(e) => {
            let why = e.to_string();
            let none = |name, costs| capability(name, true, Err(why.clone()), costs);
            all.push(none("tp_btf", "g211s cannot attach"));
            all.push(none("uprobes", "g211s cannot attach"));
        }
        Ok(mut session) => {
            let sched =
                session.attach_sched().map_err(|e| e.to_string()).map(|u| match u.first() {
                    None => "sched_switch, sched_waking and six more attach".to_owned(),
                    Some(first) => format!("attached, without {}: {}", first.feature, first.why),
                });
            all.push(capability("tp_btf", true, sched, "g211s cannot attach"));
            all.push(capability("uprobes", true, uprobes(&mut session), "no Go runtime events"));
            let counted = session.count_polls();
            let netpoll = match (session.poll_source(), counted) {
                (Err(e), _) => Err(e.to_string()),
                (Ok(_), Err(e)) => Err(e.to_string()),
                (Ok((PollSource::Fentry, _)), Ok(())) => {
                    Ok("fentry on epoll_pwait: every poll is counted, at its caller's cost alone"
                        .into())
                }
                (Ok((PollSource::Syscalls, why)), Ok(())) => Ok(format!(
                    "the tracepoints of all system calls attach: every poll is counted while the host \
                     makes up to {EXACT_SYSCALLS} system calls a second, beyond that in short looks ({})",
                    why.unwrap_or_default()
                )),
            };
            all.push(capability("netpoll", false, netpoll, POLLS_UNCOUNTED));
            all.extend(kernels_own_counts(&mut session));
        }
    }
    let costs = "network readiness is taken from the thread's wakeup instead of the socket's event";
    all.push(capability("fentry", false, fentry(), costs));
    all.push(capability(
        "perf",
        false,
        perf(),
        "no stack samples of threads that keep the world from stopping",
    ));
    all
}

/// What the kernel counts by itself and the scheduler's programs read.
fn kernels_own_counts(session: &mut Session) -> [Capability; 3] {
    let (quota, off_cpu) = (session.facts().quota, session.facts().off_cpu);
    let quota = quota
        .map(|_| "the kernel counts what CPU quotas take from each group on each CPU".to_owned())
        .ok_or_else(|| "this kernel's run queues have no such count".to_owned());
    let steal = match off_cpu {
        Some(o) if o.counts_steal => {
            Ok("the kernel counts for how long the hypervisor did not run a CPU".to_owned())
        }
        _ => Err("this kernel does not count it by CPU (CONFIG_PARAVIRT_TIME_ACCOUNTING)".into()),
    };
    let irqs = match (off_cpu.and_then(|o| o.rq_irq), session.attach_irqs()) {
        (Some(_), _) => Ok("the kernel counts them by itself".to_owned()),
        (None, Ok(())) => {
            Ok("--probe irq observes them, at the cost of some 100 ns for each of the host"
                .to_owned())
        }
        (None, Err(e)) => Err(e.to_string()),
    };
    [
        capability("cpu_quota", false, quota, "waits may be a CPU quota's doing, whoever is named"),
        capability(
            "steal",
            false,
            steal,
            "time that the hypervisor takes counts as the thread's own",
        ),
        capability("interrupts", false, irqs, IRQS_UNSEEN),
    ]
}

impl Session {
    /// Attaches to a function of our own and detaches again: whether that is allowed now.
    ///
    /// # Errors
    /// [`BpfError`] with the kernel's reason.
    pub fn try_probe(&mut self) -> Result<(), BpfError> {
        let offset =
            own_offset(g211s_probe_me as *const () as u64).ok_or_else(|| BpfError::Other {
                what: "attaching to g211s itself".into(),
                why: "/proc/self/maps is unreadable".into(),
            })?;
        self.attach_probe(&super::ProbeRequest {
            site: g211s_ebpf::event::Site::Custom,
            file: "/proc/self/exe".into(),
            file_offset: offset,
            pid: std::process::id(),
        })
        .map(drop)
    }
}

/// Calls made by [`uprobes`].
const CALLS: u64 = 1000;

/// Attaches to a function of our own, calls it, and detaches: it must be hit.
fn uprobes(session: &mut Session) -> Result<String, String> {
    let pmu = "/sys/bus/event_source/devices/uprobe/type";
    if !Path::new(pmu).exists() {
        return Err(format!("{pmu} is missing: the kernel lacks CONFIG_UPROBE_EVENTS"));
    }
    let offset =
        own_offset(g211s_probe_me as *const () as u64).ok_or("/proc/self/maps is unreadable")?;
    let pid = std::process::id();
    let _probe = session
        .attach_probe(&super::ProbeRequest {
            site: g211s_ebpf::event::Site::Custom,
            file: "/proc/self/exe".into(),
            file_offset: offset,
            pid,
        })
        .map_err(|e| e.to_string())?;
    let request = super::TargetRequest {
        index: 0,
        tgid: pid,
        reason_sweep_term: u32::MAX,
        close_site: g211s_ebpf::event::Site::StwStart,
        has_mark_termination: true,
        layout: g211s_ebpf::config::GoLayout::default(),
        mcache_alloc: 0,
    };
    session.watch(request).map_err(|e| e.to_string())?;
    // The machine may be busy: the quickest of ten batches is what a hit costs.
    let quickest = (0..10)
        .map(|_| {
            let begin = std::time::Instant::now();
            for _ in 0..CALLS / 10 {
                // SAFETY: the function returns and does nothing else.
                unsafe { g211s_probe_me() };
            }
            begin.elapsed()
        })
        .min()
        .unwrap_or_default();
    let each = quickest.as_nanos() as f64 / (CALLS / 10) as f64;
    session.unwatch(pid);
    let counted = session.counters(0, 0).map_err(|e| e.to_string())?;
    match counted.hits.get(g211s_ebpf::event::Site::Custom as usize) {
        Some(&CALLS) => Ok(format!(
            "a probe on a `nop` of g211s itself was hit {CALLS} times in {CALLS} calls, {:.1} µs a hit",
            each / 1000.0
        )),
        // In a PID namespace our number is not the kernel's, so the filter lets nothing through.
        other => Err(format!("{CALLS} calls gave {} hits", other.copied().unwrap_or(0))),
    }
}

// The function that [`uprobes`] probes: it begins with an instruction that the kernel emulates, as
// the probes in Go code do.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.g211s_probe_me, \"ax\", @progbits",
    ".globl g211s_probe_me",
    ".type g211s_probe_me, @function",
    "g211s_probe_me:",
    "nop",
    "ret",
    ".size g211s_probe_me, . - g211s_probe_me",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn g211s_probe_me();
}

/// On other machines any function does; its first instruction may be single-stepped.
#[cfg(not(target_arch = "x86_64"))]
#[inline(never)]
unsafe extern "C" fn g211s_probe_me() {
    std::hint::black_box(211);
}

/// Offset in our executable of an address in our memory.
pub(super) fn own_offset(address: u64) -> Option<u64> {
    fs::read_to_string("/proc/self/maps").ok()?.lines().find_map(|l| {
        let mut words = l.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |s| u64::from_str_radix(s, 16).ok();
        let (start, end, offset) = (hex(start)?, hex(end)?, hex(words.nth(1)?)?);
        (start..end).contains(&address).then(|| address - start + offset)
    })
}

fn fentry() -> Result<String, String> {
    let say = |what: &str, e: &(dyn std::error::Error + 'static)| failed(what, e).to_string();
    let btf = Btf::from_sys_fs().map_err(|e| say("reading BTF", &e))?;
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("EVENTS", 1 << 16)
        .map_max_entries("HISTOGRAMS", 1)
        .load(OBJECT)
        .map_err(|e| say("loading the BPF object", &e))?;
    let p = program::<FEntry>(&mut ebpf, "doctor_fentry").map_err(|e| e.to_string())?;
    // Some kernels refuse this program type to root as well; then "run as root" is no advice.
    let refused = |e: ProgramError| {
        let text = say("fentry on ep_poll_callback", &e);
        let why = text.split("; run g211s as root").next().unwrap_or_default();
        why.trim_end_matches([' ', ':']).replace(". Verifier output:", "")
    };
    p.load("ep_poll_callback", &btf).map_err(refused)?;
    p.attach().map_err(refused)?;
    Ok("attaches to ep_poll_callback".into())
}

fn perf() -> Result<String, String> {
    let say = |what: &str, e: &(dyn std::error::Error + 'static)| failed(what, e).to_string();
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("EVENTS", 1 << 16)
        .map_max_entries("HISTOGRAMS", 1)
        .load(OBJECT)
        .map_err(|e| say("loading the BPF object", &e))?;
    let p = program::<PerfEvent>(&mut ebpf, "doctor_perf").map_err(|e| e.to_string())?;
    p.load().map_err(|e| say("loading", &e))?;
    p.attach(
        PerfEventConfig::Software(SoftwareEvent::CpuClock),
        PerfEventScope::CallingProcess { cpu: None },
        SamplePolicy::Frequency(99),
        false,
    )
    .map_err(|e| say("opening a cpu-clock event", &e))?;
    Ok("sampling by the CPU clock works".into())
}

fn bpf_stats() -> Capability {
    let path = "/proc/sys/kernel/bpf_stats_enabled";
    let found = match fs::read_to_string(path) {
        Ok(s) if s.trim() == "1" => Ok("BPF run time is counted".into()),
        Ok(_) => Err(format!("{path} is 0; `--bpf-stats` turns it on for the run")),
        Err(e) => Err(format!("{path}: {e}")),
    };
    capability("bpf_stats", false, found, "the report has no BPF run time, only hit counts")
}
