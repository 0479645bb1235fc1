//! The only room that names aya: loads the embedded object, attaches, drains, and detaches by
//! dropping (`read` has what it reads from the maps). Must not know what events mean.

use std::{
    fs, io,
    io::Write as _,
    num::NonZeroU32,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{
        BtfTracePoint, ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use g211s_ebpf::{
    config::{CpuState, GoLayout, HELD_PS, TargetConfig, ThreadRecord},
    counters::{LossCounters, TargetCounters},
    event::{AllocSum, NO_SYSCALL, Site, ThreadState},
    hist::{HISTS, HistData},
    series::{PAGES, Page},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::record::{LatenessSource, PollSource, Unavailable};

mod alloc;
mod calibrate;
mod error;
pub mod features;
pub mod kernel_btf;
mod polls;
mod read;
mod sampler;
mod series;
mod targets;

pub use calibrate::{ProbeCost, ProbeKind};
pub use error::{BpfError, NEEDS};
use error::{failed, not_loaded};
use kernel_btf::KernelFacts;
pub use read::Loss;
pub use sampler::HZ as SAMPLER_HZ;

/// The BPF object that build.rs made; empty in a build without the eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("G211S_BPF_OBJECT"));

/// Where the kernel publishes its types.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// What is lost where network polls cannot be counted.
pub const POLLS_UNCOUNTED: &str =
    "polls are not counted; sleeps in them and late wakes still are, by the scheduler's events";

/// What is fixed at load.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent choices of the command line")]
pub struct LoadOptions {
    /// Runnable waits of at least this are sent one by one, ns.
    pub threshold_ns: u64,
    /// Send every transition.
    pub full: bool,
    /// Size of the ring buffer, bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// The targets, by their tgids in the initial PID namespace.
    pub tgids: Vec<u32>,
    /// Threads at most, of all targets together.
    pub threads: u32,
    /// Observe interrupts.
    pub irqs: bool,
    /// Let the kernel side log (aya-log) to stderr.
    pub kernel_log: bool,
    /// Allocations will be followed.
    pub allocs: bool,
}

/// One uprobe to attach.
#[derive(Clone, Debug)]
pub struct ProbeRequest {
    /// What it is for.
    pub site: Site,
    /// File to attach to: `/proc/PID/exe`.
    pub file: PathBuf,
    /// Offset of the instruction in that file.
    pub file_offset: u64,
    /// Process that it may fire in, as the caller's PID namespace numbers it.
    pub pid: u32,
}

/// An attached uprobe. Dropping it detaches it, for which the kernel takes 50 ms and more (it waits
/// until no CPU can be in the probe): see [`detach`].
#[derive(Debug)]
pub struct ProbeHandle(#[expect(dead_code, reason = "held for its drop")] UProbeLink);

/// The threads that detach probes.
static DETACHING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Begins to detach probes, on threads of their own, since the waits of several overlap.
///
/// [`wait_detached`] must come before the process ends: its end kills those threads, and the kernel then gives up what it was
/// about to undo (`kernel/events/uprobes.c`, `uprobe_unregister_nosync`: "leaking uprobe"), so that the breakpoint
/// stays in the target for good.
pub fn detach(probes: Vec<ProbeHandle>) {
    const THREADS: usize = 64;
    let mut batches: Vec<Vec<ProbeHandle>> = Vec::new();
    let per_batch = probes.len().div_ceil(THREADS).max(1);
    for probe in probes {
        match batches.last_mut() {
            Some(batch) if batch.len() < per_batch => batch.push(probe),
            _ => batches.push(vec![probe]),
        }
    }
    let mut detaching = DETACHING.lock().unwrap_or_else(PoisonError::into_inner);
    detaching.retain(|thread| !thread.is_finished());
    // Where no thread is to be had, the probes are dropped with what it would have run.
    let begun = |batch| {
        std::thread::Builder::new().name("detach".into()).spawn(move || drop::<Vec<_>>(batch))
    };
    detaching.extend(batches.into_iter().filter_map(|batch| begun(batch).ok()));
}

/// Waits until all that [`detach`] has begun is done.
pub fn wait_detached() {
    let detaching = std::mem::take(&mut *DETACHING.lock().unwrap_or_else(PoisonError::into_inner));
    for thread in detaching {
        // A panic in a drop has been printed; the kernel detaches at our exit at the latest.
        let _ = thread.join();
    }
}

/// The program that serves a site.
fn probe_program(site: Site) -> &'static str {
    match site {
        Site::AssistPark | Site::AssistDone => "go_assist",
        Site::HandOffP => "go_handoff",
        Site::AllocRefill | Site::AllocLarge | Site::AllocNextFree | Site::Calibrate => "go_alloc",
        Site::AllocExact => "go_alloc_exact",
        _ if site.is_counted_only() => "go_count",
        _ => "go_edge",
    }
}

/// How a target is watched, for the kernel side.
#[derive(Clone, Copy, Debug)]
pub struct TargetRequest {
    /// Its index.
    pub index: u8,
    /// Its tgid in the initial PID namespace.
    pub tgid: u32,
    /// Reason number of a stop for sweep termination.
    pub reason_sweep_term: u32,
    /// The last edge of a stop that its probes give.
    pub close_site: Site,
    /// Whether `gcMarkTermination` is probed.
    pub has_mark_termination: bool,
    /// Where the runtime keeps who has which P.
    pub layout: GoLayout,
    /// Offset of `mcache.alloc`, bytes; 0 where allocations are not followed.
    pub mcache_alloc: u32,
}

/// `T` as a map value.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Pod<T>(T);

// SAFETY: these are `repr(C)` types made of integers alone, without padding (zerocopy's
// `IntoBytes` is derived for each and checks that).
unsafe impl aya::Pod for Pod<TargetConfig> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<ThreadRecord> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<CpuState> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<TargetCounters> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<LossCounters> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<HistData> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<Page> {}
// SAFETY: as above.
unsafe impl aya::Pod for Pod<AllocSum> {}

/// The ring's file descriptor and memory.
struct Ring(RingBuf<MapData>);

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// A loaded kernel side. Dropping it detaches everything.
pub struct Session {
    ebpf: Ebpf,
    facts: KernelFacts,
    polls: Result<polls::Polls, BpfError>,
    sampler: sampler::Sampler,
    /// Whether the kernel tells when a socket becomes ready, or why not.
    readiness: Result<(), String>,
    ring: AsyncFd<Ring>,
    targets: targets::Targets,
    cpus: Array<MapData, Pod<CpuState>>,
    threads: HashMap<MapData, u32, Pod<ThreadRecord>>,
    counters: PerCpuArray<MapData, Pod<TargetCounters>>,
    hists: PerCpuArray<MapData, Pod<HistData>>,
    series: PerCpuArray<MapData, Pod<Page>>,
    loss: PerCpuArray<MapData, Pod<LossCounters>>,
    alloc: alloc::Sums,
    kernel_log: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

/// Prints what the kernel side logs.
struct KernelLog;

impl log::Log for KernelLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        // A closed stderr must not end the run.
        let _ = writeln!(io::stderr(), "kernel: {}", record.args());
    }

    fn flush(&self) {}
}

/// Scheduler programs: program name and tracepoint, and whether the run is worthless without.
const SCHED: [(&str, bool, &str); 8] = [
    ("sched_switch", true, ""),
    ("sched_waking", true, ""),
    ("sched_wakeup_new", false, "the first run of a new thread has no run-queue delay"),
    ("sched_migrate_task", false, "a wait that moved between CPUs is laid to the last CPU alone"),
    ("sched_process_fork", false, "threads born later are seen from their first switch on"),
    ("sched_process_exit", false, "a thread's end is seen at its last switch only"),
    ("sched_process_exec", false, "an exec of the target is not noticed"),
    (
        "signal_deliver",
        false,
        "where a thread kept the world from stopping is told by samples alone",
    ),
];

/// What is lost where interrupts are not observed.
pub const IRQS_UNSEEN: &str =
    "time that interrupts take from a running thread counts as the thread's own";

/// Programs on the interrupts' tracepoints, exits first: an entry without its exit would count for ever.
const IRQS: [&str; 6] = [
    "irq_handler_exit",
    "irq_handler_entry",
    "softirq_exit",
    "softirq_entry",
    "local_timer_exit",
    "local_timer_entry",
];

impl Session {
    /// Loads programs and maps; attaches nothing yet.
    ///
    /// # Errors
    /// [`BpfError`]
    pub fn load(options: &LoadOptions) -> Result<Self, BpfError> {
        Self::load_for(options, options.tgids.len() as u32, false)
    }

    /// The same, with places for so many targets at a time (at least one, at most `MAX_TARGETS`). `execs`: tell of
    /// every process of the host that replaces its program, as a [`Life::Exec`](g211s_ebpf::event::Life) of no
    /// target.
    ///
    /// # Errors
    /// [`BpfError`]
    pub fn load_for(options: &LoadOptions, targets: u32, execs: bool) -> Result<Self, BpfError> {
        if OBJECT.is_empty() {
            return Err(BpfError::NoObject);
        }
        let raw = fs::read(VMLINUX_BTF).map_err(BpfError::NoBtf)?;
        let facts = KernelFacts::from_btf(&raw)?;
        drop(raw);
        let btf = Btf::from_sys_fs().map_err(|e| failed("reading the kernel's BTF", &e))?;
        let cpus = aya::util::nr_cpus()
            .map_err(|(what, e)| failed(format!("counting CPUs ({what})"), &e))?;
        let (full, has_prev) = (u32::from(options.full), u32::from(facts.has_prev_state));
        let (count_irqs, execs) = (u32::from(options.irqs), u32::from(execs));
        let wake_at = u64::from(options.ring_bytes / 4);
        let log_level = if options.kernel_log { u8::MAX } else { 0 };
        let epoll = facts.epoll.clone().unwrap_or_default();
        let has_epoll = u32::from(facts.epoll.is_ok());
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&btf))
            .override_global("OFF_TASK_PID", &facts.task_pid, true)
            .override_global("OFF_TASK_TGID", &facts.task_tgid, true)
            .override_global("OFF_TASK_COMM", &facts.task_comm, true)
            .override_global("OFF_TASK_STATE", &facts.task_state, true)
            .override_global("OFF_TASK_CPU", &facts.task_cpu, true)
            .override_global("OFF_TASK_FSBASE", &facts.task_fsbase, true)
            .override_global("COUNT_IRQS", &count_irqs, true)
            .override_global("HAS_EPOLL_OFFSETS", &has_epoll, true)
            .override_global("OFF_TASK_FILES", &epoll.task_files, true)
            .override_global("OFF_FILES_FDT", &epoll.files_fdt, true)
            .override_global("OFF_FDT_FD", &epoll.fdt_fd, true)
            .override_global("OFF_FILE_PRIVATE", &epoll.file_private, true)
            .override_global("OFF_EPPOLL_WAIT", &epoll.eppoll_wait, true)
            .override_global("OFF_EPPOLL_BASE", &epoll.eppoll_base, true)
            .override_global("OFF_EPITEM_EP", &epoll.epitem_ep, true)
            .override_global("OFF_EPITEM_EVENTS", &epoll.epitem_events, true)
            .override_global("OFF_EP_RDLLIST", &epoll.ep_rdllist, true)
            .override_global("OFF_EP_OVFLIST", &epoll.ep_ovflist, true)
            .override_global("HAS_PREV_STATE", &has_prev, true)
            .override_global("THRESHOLD_NS", &options.threshold_ns, true)
            .override_global("TELL_EXECS", &execs, true)
            .override_global("STREAM_ALL", &full, true)
            .override_global("WAKE_AT", &wake_at, true)
            .override_global("AYA_LOG_LEVEL", &log_level, false);
        // What this kernel lacks keeps the offset that says so, and the programs leave it out.
        let optional = optional_offsets(&facts);
        for (name, offset) in &optional {
            loader.override_global(name, offset, true);
        }
        loader
            .map_max_entries("EVENTS", options.ring_bytes)
            .map_max_entries("CPUS", cpus as u32)
            .map_max_entries("THREADS", options.threads)
            .map_max_entries("CONFIGS", targets)
            .map_max_entries("STATES", targets)
            .map_max_entries("COUNTERS", targets)
            .map_max_entries("HISTOGRAMS", targets * HISTS as u32)
            .map_max_entries("HELD", targets * HELD_PS)
            .map_max_entries("SERIES", targets * PAGES);
        if !options.allocs {
            loader.map_max_entries("ALLOC_STACKS", 1);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| failed("loading the BPF object", &e))?;

        for (name, required, _) in SCHED {
            let loaded = program::<BtfTracePoint>(&mut ebpf, name)
                .and_then(|p| p.load(name, &btf).map_err(|e| not_loaded(name, &e)));
            if required {
                loaded?;
            }
        }
        for name in ["go_edge", "go_count", "go_assist", "go_handoff"] {
            program::<UProbe>(&mut ebpf, name)?.load().map_err(|e| not_loaded(name, &e))?;
        }
        if options.allocs {
            for name in ["go_alloc", "go_alloc_exact"] {
                program::<UProbe>(&mut ebpf, name)?.load().map_err(|e| not_loaded(name, &e))?;
            }
        }
        // Not vital: without, sleeps in polls and late wakes are still the scheduler's to tell.
        let polls = polls::Polls::open(&mut ebpf, &btf);
        let readiness = match (&polls, &facts.epoll) {
            (_, Err(e)) => Err(e.to_string()),
            (Ok(p), _) if p.source() == PollSource::Fentry => polls::readiness(&mut ebpf, &btf),
            _ => Err("it needs fentry on the system calls that poll".to_owned()),
        };
        let kernel_log = options
            .kernel_log
            .then(|| {
                let logger: &'static dyn log::Log = &KernelLog;
                aya_log::EbpfLogger::init_with_logger(&mut ebpf, logger)
            })
            .transpose()
            .map_err(|e| failed("starting the kernel side's log", &e))?;
        let ring = RingBuf::try_from(take(&mut ebpf, "EVENTS")?)
            .map_err(|e| failed("mapping the ring buffer", &e))?;
        // SAFETY: `Ring` owns the map's descriptor, gives the same one on every call, and closes
        // it only when dropped, which is when the `AsyncFd` is.
        let ring = unsafe { AsyncFd::register_with_interest(Ring(ring), Interest::READABLE) }
            .map_err(|e| failed("watching the ring buffer", &e.into_parts().1))?;
        let map_error = |e: aya::maps::MapError| failed("opening a map", &e);
        Ok(Self {
            targets: targets::Targets::new(&mut ebpf, &options.tgids)?,
            cpus: Array::try_from(take(&mut ebpf, "CPUS")?).map_err(map_error)?,
            threads: HashMap::try_from(take(&mut ebpf, "THREADS")?).map_err(map_error)?,
            counters: PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?).map_err(map_error)?,
            hists: PerCpuArray::try_from(take(&mut ebpf, "HISTOGRAMS")?).map_err(map_error)?,
            series: PerCpuArray::try_from(take(&mut ebpf, "SERIES")?).map_err(map_error)?,
            loss: PerCpuArray::try_from(take(&mut ebpf, "LOSS")?).map_err(map_error)?,
            alloc: alloc::Sums::new(&mut ebpf)?,
            sampler: sampler::Sampler::new(&mut ebpf)?,
            polls,
            facts,
            readiness,
            ebpf,
            ring,
            kernel_log,
        })
    }

    /// Attaches the scheduler's tracepoints. What is not vital and fails is reported, not fatal.
    ///
    /// # Errors
    /// [`BpfError`] if `sched_switch` or `sched_waking` cannot be attached.
    pub fn attach_sched(&mut self) -> Result<Vec<Unavailable>, BpfError> {
        let mut unavailable = Vec::new();
        for (name, required, costs) in SCHED {
            let attached = program::<BtfTracePoint>(&mut self.ebpf, name)
                .and_then(|p| p.attach().map_err(|e| failed(format!("attaching {name}"), &e)));
            match attached {
                Ok(_) => {}
                Err(e) if required => return Err(e),
                Err(e) => unavailable.push(Unavailable {
                    feature: name.into(),
                    why: e.to_string(),
                    costs: costs.into(),
                }),
            }
        }
        Ok(unavailable)
    }

    /// Observes every interrupt of the host, if that was asked for at load.
    ///
    /// # Errors
    /// [`BpfError`] if the kernel refuses; then none is observed.
    pub fn attach_irqs(&mut self) -> Result<(), BpfError> {
        // There a handler is a thread, which is preempted like others.
        if fs::read_to_string("/proc/version").is_ok_and(|v| v.contains("PREEMPT_RT")) {
            return Err(BpfError::Other {
                what: "observing interrupts".into(),
                why: "a PREEMPT_RT kernel handles them in threads".into(),
            });
        }
        let btf = Btf::from_sys_fs().map_err(|e| failed("reading the kernel's BTF", &e))?;
        for name in IRQS {
            let p = program::<BtfTracePoint>(&mut self.ebpf, name)?;
            p.load(name, &btf).map_err(|e| not_loaded(name, &e))?;
        }
        for name in IRQS {
            program::<BtfTracePoint>(&mut self.ebpf, name)?
                .attach()
                .map_err(|e| failed(format!("attaching {name}"), &e))?;
        }
        Ok(())
    }

    /// What this kernel counts by itself.
    pub fn facts(&self) -> &KernelFacts {
        &self.facts
    }

    /// Begins to look at every CPU [`SAMPLER_HZ`] times a second for code that keeps a world from stopping.
    ///
    /// # Errors
    /// [`BpfError`] if the kernel refuses; then none is attached.
    pub fn sample(&mut self) -> Result<(), BpfError> {
        sampler::Sampler::begin(&mut self.ebpf)
    }

    /// How often that was done so far, on all CPUs.
    pub fn sampler_ticks(&self) -> u64 {
        self.sampler.ticks()
    }

    /// How network polls are counted here, and why not better.
    pub fn poll_source(&self) -> Result<(PollSource, Option<&str>), &BpfError> {
        self.polls.as_ref().map(|p| (p.source(), p.why.as_deref()))
    }

    /// What tells how late the network is served here, and why not better.
    pub fn lateness_source(&self) -> (LatenessSource, Option<&str>) {
        match &self.readiness {
            Ok(()) => (LatenessSource::EpPollCallback, None),
            Err(why) => (LatenessSource::Wakeup, Some(why)),
        }
    }

    /// Begins to count network polls.
    ///
    /// # Errors
    /// [`BpfError`] if the kernel refuses; then they are not counted at all.
    pub fn count_polls(&mut self) -> Result<(), BpfError> {
        let Ok(polls) = &mut self.polls else { return Ok(()) };
        polls.begin(&mut self.ebpf)
    }

    /// Stops counting network polls for now.
    pub fn pause_polls(&mut self) {
        if let Ok(polls) = &mut self.polls {
            polls.pause();
        }
    }

    /// System calls of the whole host so far, seen while polls were counted; 0 where the source sees polls
    /// alone.
    pub fn host_syscalls(&self) -> u64 {
        self.polls.as_ref().map_or(0, polls::Polls::syscalls)
    }

    /// Attaches one uprobe. It stays as long as the handle.
    ///
    /// # Errors
    /// [`BpfError`] with the kernel's reason.
    pub fn attach_probe(&mut self, probe: &ProbeRequest) -> Result<ProbeHandle, BpfError> {
        self.attach_to(probe_program(probe.site), probe)
    }

    fn attach_to(&mut self, name: &str, probe: &ProbeRequest) -> Result<ProbeHandle, BpfError> {
        let what = || {
            format!(
                "attaching to {}+{:#x} for {:?}",
                probe.file.display(),
                probe.file_offset,
                probe.site
            )
        };
        let pid = NonZeroU32::new(probe.pid)
            .ok_or_else(|| BpfError::Other { what: what(), why: "pid 0 is no process".into() })?;
        let uprobe = program::<UProbe>(&mut self.ebpf, name)?;
        let link = uprobe
            .attach(
                UProbeAttachPoint {
                    location: UProbeAttachLocation::AbsoluteOffset(probe.file_offset),
                    cookie: Some(probe.site as u64),
                },
                &probe.file,
                UProbeScope::OneProcess(pid),
            )
            .and_then(|id| uprobe.take_link(id))
            .map_err(|e| failed(what(), &e))?;
        Ok(ProbeHandle(link))
    }

    /// Whether this kernel tells where a thread's own data is, by which its P is found.
    pub fn tells_fsbase(&self) -> bool {
        self.facts.task_fsbase != 0
    }

    /// Tells the kernel side the state of a thread that it has not seen yet; what it has seen
    /// itself is newer and stays.
    pub fn seed_thread(
        &mut self,
        target: u8,
        tid: u32,
        (state, syscall): (ThreadState, Option<i32>),
        now_ns: u64,
    ) {
        const BPF_NOEXIST: u64 = 1;
        let mut record = ThreadRecord::new(target, state, now_ns);
        record.syscall = syscall.unwrap_or(NO_SYSCALL);
        // Refused if the kernel side made it meanwhile (fine) or the table is full (counted there).
        let _ = self.threads.insert(tid, Pod(record), BPF_NOEXIST);
    }

    /// Hands items in the ring to `f`, at most `max_bytes` of them (a busy host fills the ring as
    /// fast as it is emptied); returns the bytes handed on, and whether there is more.
    pub fn drain(&mut self, max_bytes: u64, mut f: impl FnMut(&[u8])) -> (u64, bool) {
        let mut bytes = 0;
        let ring = &mut self.ring.get_mut().0;
        while bytes < max_bytes {
            let Some(item) = ring.next() else { return (bytes, false) };
            bytes += item.len() as u64;
            f(&item);
        }
        (bytes, true)
    }

    /// Waits until the ring is filling faster than the timer empties it. Cancel-safe.
    pub async fn pressed(&self) {
        match self.ring.readable().await {
            Ok(mut guard) => guard.clear_ready(),
            // Without the signal the timer alone drains.
            Err(_) => std::future::pending().await,
        }
    }

    /// Prints what the kernel side logged.
    pub fn flush_kernel_log(&mut self) {
        if let Some(log) = &mut self.kernel_log {
            log.flush();
        }
    }
}

/// Offsets of what not all kernels have, by the global that takes it.
fn optional_offsets(facts: &KernelFacts) -> Vec<(&'static str, u32)> {
    let mut all = Vec::new();
    // Quotas are found through the same pointers.
    let Some(o) = facts.off_cpu else { return all };
    all.extend([
        ("OFF_TASK_CFS_RQ", o.task_cfs_rq),
        ("OFF_CFS_RQ", o.cfs_rq),
        ("OFF_RQ_CLOCK", o.rq_clock),
        ("OFF_RQ_CLOCK_TASK", o.rq_clock_task),
    ]);
    all.extend(o.rq_irq.map(|offset| ("OFF_RQ_IRQ", offset)));
    let Some(q) = facts.quota else { return all };
    all.extend([
        ("OFF_CFS_TG", q.cfs_tg),
        ("OFF_CFS_COUNT", q.cfs_count),
        ("OFF_CFS_TIME", q.cfs_time),
        ("OFF_CFS_BEGIN", q.cfs_begin),
        ("OFF_RQ_CLOCK_OF_BEGIN", q.rq_clock_of_begin),
        ("OFF_TG_CFS_RQ", q.tg_cfs_rq),
    ]);
    all.extend(q.task_throttled.map(|offset| ("OFF_TASK_THROTTLED", offset)));
    all.extend(q.cfs_since.map(|offset| ("OFF_CFS_SINCE", offset)));
    all.extend(q.rq_lost.map(|offset| ("OFF_RQ_LOST", offset)));
    all
}

/// Makes the kernel time every BPF program while the returned descriptor lives (5.8+). Costs each
/// run two clock reads, so it is on request.
///
/// # Errors
/// [`BpfError`] if the kernel refuses.
pub fn enable_stats() -> Result<std::os::fd::OwnedFd, BpfError> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .map_err(|e| failed("turning BPF statistics on", &e))
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| BpfError::Other {
            what: format!("finding program {name}"),
            why: "the BPF object lacks it".into(),
        })?
        .try_into()
        .map_err(|e: ProgramError| failed(format!("finding program {name}"), &e))
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, BpfError> {
    ebpf.take_map(name).ok_or_else(|| BpfError::Other {
        what: format!("finding map {name}"),
        why: "the BPF object lacks it".into(),
    })
}
