//! Which probes to set in a Go executable, and what cannot be had and why. Decides from the file
//! alone; must not know the kernel, attaching or processes.

use std::collections::HashMap;

use g211s_ebpf::event::Site;

use super::{Binary, Code, NEWEST_CHECKED_MINOR};
use crate::elf::pclntab::Function;
use crate::elf::sites::{CallResult, CodeSite, FunctionCode};
use crate::record::{AttachedProbe, Unavailable};

const GC_START: &str = "runtime.gcStart";
const STW_STOP: &str = "runtime.stopTheWorldWithSema";
const STW_START: &str = "runtime.startTheWorldWithSema";
const GC_MARK_TERMINATION: &str = "runtime.gcMarkTermination";
const GC_STOP_M: &str = "runtime.gcstopm";
const GC_TRANSITION_END: &str = "runtime.(*gcCPULimiterState).finishGCTransition";
const REFILL: &str = "runtime.(*mcache).refill";
/// Called by `refill` alone, once: stands in for it where a profile-guided build inlines it (Go 1.24).
const CACHE_SPAN: &str = "runtime.(*mcentral).cacheSpan";
const ALLOC_LARGE: &str = "runtime.(*mcache).allocLarge";
const NEXT_FREE: &str = "runtime.(*mcache).nextFree";
const HEAP_ALLOC: &str = "runtime.(*mheap).alloc";
const MALLOC_GC: &str = "runtime.mallocgc";
const ASSIST: &str = "runtime.gcAssistAlloc";
const PARK_ASSIST: &str = "runtime.gcParkAssist";
const HAND_OFF_P: &str = "runtime.handoffp";
const HISTOGRAM_RECORD: &str = "runtime.(*timeHistogram).record";

/// Text that the FIPS 140 module hashes at start (Go 1.24+, `crypto/internal/fips140/check`): an
/// `int3` in it would end the program.
const FIPS_MODULE: &str = "crypto/internal/fips140";

/// Runtime functions that do not come back to their caller, and `morestack`, after which the caller
/// begins anew (Go `src/runtime/panic.go`, `signal_unix.go`, `asm_amd64.s`).
const NEVER_RETURNS: [&str; 32] = [
    "runtime.throw",
    "runtime.fatal",
    "runtime.fatalthrow",
    "runtime.fatalpanic",
    "runtime.gopanic",
    "runtime.panicIndex",
    "runtime.panicIndexU",
    "runtime.panicSliceAlen",
    "runtime.panicSliceAlenU",
    "runtime.panicSliceAcap",
    "runtime.panicSliceAcapU",
    "runtime.panicSliceB",
    "runtime.panicSliceBU",
    "runtime.panicSlice3Alen",
    "runtime.panicSlice3AlenU",
    "runtime.panicSlice3Acap",
    "runtime.panicSlice3AcapU",
    "runtime.panicSlice3B",
    "runtime.panicSlice3BU",
    "runtime.panicSlice3C",
    "runtime.panicSlice3CU",
    "runtime.panicSliceConvert",
    "runtime.panicBounds",
    "runtime.panicdivide",
    "runtime.panicoverflow",
    "runtime.panicshift",
    "runtime.panicnil",
    "runtime.panicmem",
    "runtime.panicdottypeE",
    "runtime.panicunsafestringlen",
    "runtime.morestack",
    "runtime.morestack_noctxt",
];

/// What to plan beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// `runtime.mallocgc` and its size-specialised variants: dear in a program that allocates.
    pub mallocgc: bool,
    /// `runtime.(*mcache).nextFree`.
    pub nextfree: bool,
    /// Any function, at its entry.
    pub custom: Option<String>,
}

/// A probe to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedProbe {
    /// What it is for.
    pub site: Site,
    /// Function it sits in.
    pub function: String,
    /// Offset of the instruction in the function, bytes.
    pub function_offset: u64,
    /// Virtual address, before a PIE's load bias.
    pub va: u64,
    /// Offset in the file: what the kernel is given.
    pub file_offset: u64,
    /// The instruction, e.g. `push rbp`.
    pub instruction: String,
    /// Whether the kernel emulates it (cheap) or single-steps it (dear).
    pub emulated: bool,
}

impl PlannedProbe {
    fn new(site: Site, function: &str, at: CodeSite) -> Self {
        Self {
            site,
            function: function.to_owned(),
            function_offset: at.offset,
            va: at.va,
            file_offset: at.file_offset,
            instruction: at.instruction,
            emulated: at.emulated,
        }
    }

    /// As it goes into the recording, once it is attached.
    pub fn attached(&self) -> AttachedProbe {
        AttachedProbe {
            site: site_name(self.site).to_owned(),
            site_id: self.site as u32,
            function: self.function.clone(),
            function_offset: self.function_offset,
            file_offset: self.file_offset,
            instruction: self.instruction.clone(),
            emulated: self.emulated,
        }
    }
}

/// What to attach to an executable.
#[derive(Clone, Debug, Default)]
pub struct ProbePlan {
    /// Probes, in the order of [`Site`].
    pub probes: Vec<PlannedProbe>,
    /// What is missing, why, and what that costs the user.
    pub unavailable: Vec<Unavailable>,
}

impl ProbePlan {
    /// The probes of a site.
    pub fn of(&self, site: Site) -> impl Iterator<Item = &PlannedProbe> {
        self.probes.iter().filter(move |p| p.site == site)
    }
}

/// No probe at all can be set.
#[derive(Debug, thiserror::Error)]
#[error("none of the Go runtime's functions can be probed in this executable: {0}")]
pub struct NothingToProbe(String);

/// The name of a site in recordings and reports.
pub fn site_name(site: Site) -> &'static str {
    match site {
        Site::GcStart => "gc_start",
        Site::StwStop => "stw_stop",
        Site::StwStopped => "stw_stopped",
        Site::StwStart => "stw_start",
        Site::StwEnd => "stw_end",
        Site::GcMarkTermination => "gc_mark_termination",
        Site::GcStopM => "gc_stop_m",
        Site::GcTransitionEnd => "gc_transition_end",
        Site::McacheRefill => "mcache_refill",
        Site::McacheAllocLarge => "mcache_alloc_large",
        Site::McacheNextFree => "mcache_next_free",
        Site::MallocGc => "mallocgc",
        Site::Custom => "custom",
        Site::AssistPark => "assist_park",
        Site::AssistDone => "assist_done",
        Site::HandOffP => "hand_off_p",
        Site::AllocRefill => "alloc_refill",
        Site::AllocLarge => "alloc_large",
        Site::AllocNextFree => "alloc_next_free",
        Site::AllocExact => "alloc_exact",
        Site::Calibrate => "calibrate",
    }
}

/// What the user loses where a site cannot be probed.
pub fn site_costs(site: Site) -> &'static str {
    match site {
        Site::GcStart => "why a GC cycle began (heap, time, runtime.GC) is not told",
        Site::StwStop => {
            "no thread states during the stopping phase: a slow stop has no culprit; before Go 1.23 no \
             pause is measured at all"
        }
        Site::StwStopped => "stopping and stopped time of a pause are not told apart",
        Site::StwStart => "pauses have no end: they are not measured",
        Site::StwEnd => "pause lengths are not checked against the runtime's own clock",
        Site::GcMarkTermination => "GC cycles are counted by their stops only",
        Site::GcStopM => "which thread was the last to stop is told by the scheduler only",
        Site::GcTransitionEnd => "the runtime's own end time of GC stops is not known",
        Site::McacheRefill => "the small-object allocation rate is not known",
        Site::McacheAllocLarge => "the large-object allocation rate is not known",
        Site::McacheNextFree => "nextFree calls are not counted",
        Site::MallocGc => "mallocgc calls are not counted",
        Site::Custom => "calls of the function are not counted",
        Site::AssistPark | Site::AssistDone => {
            "goroutines that were stalled in mark assists are not told"
        }
        Site::HandOffP => "Ps kept by threads in system calls are not told",
        Site::AllocRefill => "who allocates small objects is not told",
        Site::AllocLarge => "who allocates objects of more than 32 KiB is not told",
        Site::AllocNextFree => "allocations are sampled less densely (one in 7.6 KB or so)",
        Site::AllocExact => "allocations cannot be counted one by one",
        Site::Calibrate => "what a probe's hit costs here is assumed, not measured",
    }
}

/// Plans the probes for an executable. What is missing is reported, not fatal, unless nothing is
/// left.
///
/// By version:
/// - Entries (`push rbp`): all versions. An ABI wrapper that has the name of the function it calls is
///   left out, so that a call counts once.
/// - [`Site::StwStopped`]: before 1.23 only; later `startTheWorldWithSema` carries the time in its
///   registers. In 1.22 the calls of `(*timeHistogram).record` (BX = stopping time, ns; two, one of
///   which is executed), in 1.21 the last branch before the return.
/// - [`Site::StwEnd`]: 1.22+, the calls of `(*timeHistogram).record` (AX = histogram, BX =
///   `totalTime`, ns; two, GC and other, one of which is executed). Where the caller passed a `now`
///   (AX at [`Site::StwStart`], only at mark termination: `work.tEnd`), that total ends *then*, and
///   the world stays stopped a little longer. In 1.21 [`Site::GcTransitionEnd`] tells the
///   end of GC stops (BX = `now`); others have none.
/// - [`Site::GcTransitionEnd`]: after [`Site::StwEnd`] for the stop that begins a cycle (`gcStart`),
///   before [`Site::StwStart`] for the one that ends it (`gcMarkTermination`). A stop of reason "GC
///   mark termination" that finds more work (`gcMarkDone`) has neither it nor
///   [`Site::GcMarkTermination`]. Go `src/runtime/mgc.go`, 1.21.13, 1.22.10 and 1.27.3.
/// - [`Site::AssistDone`]: `if !gcParkAssist() { goto retry }` in `gcAssistAlloc` (Go `src/runtime/mgcmark.go`)
///   is `call; test al, al; je` in 1.21.13 to 1.27.3.
/// - [`Site::MallocGc`]: `runtime.mallocgc`, and from 1.26 on `runtime.mallocgc*SC<n>`
///   (`SmallNoScanSC2`…, `SmallScanNoHeaderSC1`…, `TinySC2`), which the compiler calls directly where
///   it knows the size (Go `src/runtime/malloc_stubs.go`, `cmd/compile/internal/ssagen/ssa.go`). Where the
///   size is not known to the compiler, `mallocgc` passes small ones on to a variant, so those hit
///   twice: hits are calls, an upper bound of allocations. `*SlowPath` and the helpers
///   without `SC<n>` are only called from these and are left out.
pub fn plan(binary: &Binary, options: &PlanOptions) -> Result<ProbePlan, NothingToProbe> {
    binary.known_runtime().map_err(|why| NothingToProbe(why.to_string()))?;
    let mut planner = Planner::new(binary, options);
    planner.entry(Site::GcStart, GC_START);
    planner.entry(Site::StwStop, STW_STOP);
    planner.stopped();
    planner.entry(Site::StwStart, STW_START);
    planner.end();
    planner.entry(Site::GcMarkTermination, GC_MARK_TERMINATION);
    planner.entry(Site::GcStopM, GC_STOP_M);
    planner.entry(Site::GcTransitionEnd, GC_TRANSITION_END);
    let refill = if planner.functions.contains_key(REFILL) { REFILL } else { CACHE_SPAN };
    planner.entry(Site::McacheRefill, refill);
    planner.entry(Site::McacheAllocLarge, ALLOC_LARGE);
    if options.nextfree {
        planner.entry(Site::McacheNextFree, NEXT_FREE);
    }
    if options.mallocgc {
        planner.mallocgc(Site::MallocGc);
    }
    if let Some(name) = &options.custom {
        if name.starts_with(FIPS_MODULE) {
            planner.missing(Site::Custom, format!("{name} checks its own code at start"));
        } else {
            planner.entry(Site::Custom, name);
        }
    }
    planner.assists();
    planner.entry(Site::HandOffP, HAND_OFF_P);
    let mut plan = planner.plan;
    if plan.probes.is_empty() && binary.functions.with_prefix("runtime.").next().is_none() {
        return Err(NothingToProbe(
            "its function table names none of them (an obfuscator renames them)".to_owned(),
        ));
    }
    if plan.probes.is_empty() {
        let whys: Vec<String> = plan.unavailable.into_iter().map(|u| u.why).collect();
        return Err(NothingToProbe(whys.join("; ")));
    }
    let inlined = inlined(binary, &plan.probes);
    // A part of the calls would be taken for all of them.
    plan.probes.retain(|p| inlined.iter().all(|(site, _)| *site != p.site));
    // One end of a park without the other is of no use.
    if inlined.iter().any(|(site, _)| matches!(site, Site::AssistPark | Site::AssistDone)) {
        plan.probes.retain(|p| !matches!(p.site, Site::AssistPark | Site::AssistDone));
    }
    // Some stops would be seen and others not, and edges of different ones taken for one stop: none then.
    if inlined.iter().any(|(site, _)| matches!(site, Site::StwStop | Site::StwStart)) {
        plan.probes.retain(|p| !STOPS.contains(&p.site));
    }
    plan.unavailable.extend(inlined.into_iter().map(|(_, told)| told));
    if binary.version.at_least(NEWEST_CHECKED_MINOR + 1) {
        plan.unavailable.push(Unavailable {
            feature: "checked_go_version".to_owned(),
            why: format!(
                "{} is newer than Go 1.{NEWEST_CHECKED_MINOR}, the newest whose runtime was checked",
                binary.version
            ),
            costs: "arguments of probes are read as in the newest checked version; compare the \
                    pauses with the runtime's own counts"
                .to_owned(),
        });
    }
    Ok(plan)
}

/// The probes that tell who allocates, from the densest to the cheapest.
#[derive(Clone, Debug, Default)]
pub struct AllocPlan {
    /// Every allocation ([`Site::AllocExact`]).
    pub exact: Vec<PlannedProbe>,
    /// One small object in some 64 ([`Site::AllocNextFree`]).
    pub next_free: Vec<PlannedProbe>,
    /// One small object a span, i.e. in some 8 KB ([`Site::AllocRefill`]).
    pub refill: Vec<PlannedProbe>,
    /// Every large object ([`Site::AllocLarge`]).
    pub large: Vec<PlannedProbe>,
    /// What is missing, why, and what that costs the user.
    pub unavailable: Vec<Unavailable>,
}

/// Plans the probes for allocations.
///
/// [`Site::AllocRefill`] sits on the branch on what `cacheSpan` returned, where AX is the span and the stack is the
/// allocating goroutine's own: `call; test rax, rax; je` in `refill` from 1.21.13 to 1.27.3, in `nextFree` where a
/// profile-guided build has inlined `refill` into it (seen with 1.24.11). [`Site::AllocLarge`] likewise, after
/// `(*mheap).alloc` in `allocLarge` (Go `src/runtime/mcache.go`).
///
/// # Errors
/// [`NothingToProbe`] where small objects cannot be followed at all.
pub fn plan_allocs(binary: &Binary) -> Result<AllocPlan, NothingToProbe> {
    binary.known_runtime().map_err(|why| NothingToProbe(why.to_string()))?;
    let options = PlanOptions::default();
    let mut planner = Planner::new(binary, &options);
    planner.branches(Site::AllocRefill, &[REFILL, NEXT_FREE], CACHE_SPAN);
    planner.branches(Site::AllocLarge, &[ALLOC_LARGE], HEAP_ALLOC);
    planner.entry(Site::AllocNextFree, NEXT_FREE);
    planner.mallocgc(Site::AllocExact);
    let mut plan = planner.plan;
    let inlined = inlined(binary, &plan.probes);
    plan.probes.retain(|p| inlined.iter().all(|(site, _)| *site != p.site));
    plan.unavailable.extend(inlined.into_iter().map(|(_, told)| told));
    if plan.of(Site::AllocRefill).next().is_none() {
        let whys: Vec<String> = plan.unavailable.into_iter().map(|u| u.why).collect();
        return Err(NothingToProbe(whys.join("; ")));
    }
    let of = |site| plan.of(site).cloned().collect();
    Ok(AllocPlan {
        exact: of(Site::AllocExact),
        next_free: of(Site::AllocNextFree),
        refill: of(Site::AllocRefill),
        large: of(Site::AllocLarge),
        unavailable: plan.unavailable,
    })
}

/// The sites that stops and cycles are put together from.
const STOPS: [Site; 7] = [
    Site::StwStop,
    Site::StwStopped,
    Site::StwStart,
    Site::StwEnd,
    Site::GcMarkTermination,
    Site::GcTransitionEnd,
    Site::GcStopM,
];

/// Functions, with the closures in them, that call what is probed: where a profile-guided build may have
/// inlined it instead.
const CALLERS: [&str; 13] = [
    "runtime.gcStart",
    "runtime.gcMarkDone",
    "runtime.gcMarkTermination",
    "runtime.stopTheWorld",
    "runtime.startTheWorld",
    "runtime.findRunnable",
    "runtime.mallocgc",
    "runtime.(*mcache).nextFree",
    ASSIST,
    "runtime.retake",
    "runtime.sysmon",
    "runtime.forEachP",
    "runtime.entersyscallblock",
];

/// What a profile-guided build has inlined of the functions that are probed: such a call does not come by
/// the probe. (Without a profile none of them is small enough.)
fn inlined(binary: &Binary, probes: &[PlannedProbe]) -> Vec<(Site, Unavailable)> {
    /// Bytes between two looks: the bodies in question have a hundred and more.
    const STEP: usize = 8;
    if matches!(binary.build.setting("-pgo"), None | Some("" | "off")) {
        return Vec::new();
    }
    let mut symbols = binary.symbols();
    let mut found: Vec<(Site, String, String)> = Vec::new();
    for caller in CALLERS.iter().flat_map(|prefix| binary.functions.with_prefix(prefix)) {
        for pc in (caller.entry..caller.end).step_by(STEP) {
            let Some(frames) = symbols.at(pc) else { break };
            for frame in frames.iter().filter(|f| f.inlined) {
                let Some(probe) = probes.iter().find(|p| *p.function == *frame.function) else {
                    continue;
                };
                let into = String::from_utf8_lossy(caller.name).into_owned();
                let this = (probe.site, probe.function.clone(), into);
                if !found.contains(&this) {
                    found.push(this);
                }
            }
        }
    }
    let told = |(site, function, into): (Site, String, String)| {
        let costs = match site {
            Site::StwStop | Site::StwStart => {
                "no GC cycles and no pauses, since only some would be seen; run-queue delays, netpoll and \
                 the runtime's own figures go on"
            }
            _ => site_costs(site),
        };
        let told = Unavailable {
            feature: site_name(site).to_owned(),
            why: format!(
                "{function} is inlined into {into} by the profile of this build: its calls there \
                 would be missed"
            ),
            costs: costs.to_owned(),
        };
        (site, told)
    };
    found.into_iter().map(told).collect()
}

/// As [`plan`]; where nothing can be probed, a plan that says only so.
pub fn plan_or_why(binary: &Binary, options: &PlanOptions) -> ProbePlan {
    plan(binary, options).unwrap_or_else(|e| ProbePlan {
        probes: Vec::new(),
        unavailable: vec![Unavailable {
            feature: "go_probes".into(),
            why: e.to_string(),
            costs: "no GC cycles and no pauses; run-queue delays and netpoll go on".into(),
        }],
    })
}

struct Planner<'a> {
    binary: &'a Binary,
    functions: HashMap<&'a str, Vec<Function<'a>>>,
    never_returns: Vec<u64>,
    plan: ProbePlan,
}

impl<'a> Planner<'a> {
    fn new(binary: &'a Binary, options: &'a PlanOptions) -> Self {
        let mut names = vec![
            GC_START,
            STW_STOP,
            STW_START,
            GC_MARK_TERMINATION,
            GC_STOP_M,
            GC_TRANSITION_END,
            REFILL,
            CACHE_SPAN,
            ALLOC_LARGE,
            NEXT_FREE,
            HEAP_ALLOC,
            MALLOC_GC,
            ASSIST,
            PARK_ASSIST,
            HAND_OFF_P,
            HISTOGRAM_RECORD,
        ];
        names.extend(NEVER_RETURNS);
        names.extend(options.custom.as_deref());
        let functions = binary.functions.resolve(&names);
        let never_returns = NEVER_RETURNS
            .iter()
            .filter_map(|n| functions.get(n))
            .flatten()
            .map(|f| f.entry)
            .collect();
        Self { binary, functions, never_returns, plan: ProbePlan::default() }
    }

    fn missing(&mut self, site: Site, why: String) {
        self.plan.unavailable.push(Unavailable {
            feature: site_name(site).to_owned(),
            why,
            costs: site_costs(site).to_owned(),
        });
    }

    fn add(&mut self, site: Site, function: &str, at: impl IntoIterator<Item = CodeSite>) {
        let probes = at.into_iter().map(|at| PlannedProbe::new(site, function, at));
        self.plan.probes.extend(probes);
    }

    /// Runs `f` on the decoded code of the function of this name; of several, on each that is not
    /// only a wrapper of another.
    fn with_code<T>(
        &self,
        name: &str,
        mut f: impl FnMut(&FunctionCode<'_>) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let found = self.functions.get(name).map(Vec::as_slice).unwrap_or_default();
        if found.is_empty() {
            return Err(format!(
                "{name} is not in the executable's function table (inlined or dropped by the linker)"
            ));
        }
        let codes: Result<Vec<Code>, String> =
            found.iter().map(|f| self.binary.code(f).map_err(|e| format!("{name}: {e}"))).collect();
        let codes = codes?;
        let mut results = Vec::new();
        for (function, code) in found.iter().zip(&codes) {
            let code = code.decode().map_err(|e| format!("{name}: {e}"))?;
            let is_wrapper =
                found.iter().any(|f| f.entry != function.entry && code.leads_to(f.entry));
            if is_wrapper {
                continue;
            }
            results.push(f(&code)?);
        }
        Ok(results)
    }

    fn entry(&mut self, site: Site, name: &str) {
        let at = self.with_code(name, |code| code.entry_push().map_err(|e| format!("{name}: {e}")));
        match at {
            Ok(at) => self.add(site, name, at),
            Err(why) => self.missing(site, why),
        }
    }

    /// The calls of `(*timeHistogram).record` in a function: at least one.
    fn record_calls(&self, name: &str) -> Result<Vec<CodeSite>, String> {
        let record = match self.functions.get(HISTOGRAM_RECORD).map(Vec::as_slice) {
            Some([record]) => record.entry,
            _ => return Err(format!("{HISTOGRAM_RECORD} is not a function of its own here")),
        };
        let calls = self.with_code(name, |code| Ok(code.calls_to(record)))?;
        let calls: Vec<CodeSite> = calls.into_iter().flatten().collect();
        if calls.is_empty() {
            return Err(format!("{name} does not call {HISTOGRAM_RECORD} (inlined)"));
        }
        Ok(calls)
    }

    /// The branches on what `callee` returns (a pointer), in those of `callers` that call it.
    fn branches(&mut self, site: Site, callers: &[&str], callee: &str) {
        let target = match self.functions.get(callee).map(Vec::as_slice) {
            Some([f]) => f.entry,
            _ => return self.missing(site, format!("{callee} is not a function of its own here")),
        };
        let mut whys = Vec::new();
        for caller in callers {
            let found = self.with_code(caller, |code| {
                code.branches_after(target, CallResult::Pointer)
                    .map_err(|e| format!("{caller}: {e}"))
            });
            match found.map(|at| at.into_iter().flatten().collect::<Vec<_>>()) {
                Ok(at) if at.is_empty() => whys.push(format!("{caller} does not call {callee}")),
                Ok(at) => return self.add(site, caller, at),
                Err(why) => whys.push(why),
            }
        }
        self.missing(site, whys.join("; "));
    }

    fn stopped(&mut self) {
        if self.binary.version.at_least(23) {
            return;
        }
        let calls = if self.binary.version.at_least(22) {
            self.record_calls(STW_STOP)
        } else {
            Err(String::new())
        };
        let never_returns = |va: u64| self.never_returns.contains(&va);
        let at = calls.or_else(|_| {
            self.with_code(STW_STOP, |code| match code.exit_branch(never_returns) {
                Ok(at) => Ok(vec![at]),
                Err(why) => {
                    let rets = code.rets();
                    if rets.is_empty() { Err(format!("{STW_STOP}: {why}")) } else { Ok(rets) }
                }
            })
            .map(|found| found.into_iter().flatten().collect())
        });
        match at {
            Ok(at) => self.add(Site::StwStopped, STW_STOP, at),
            Err(why) => self.missing(Site::StwStopped, why),
        }
    }

    fn end(&mut self) {
        if !self.binary.version.at_least(22) {
            return self.missing(
                Site::StwEnd,
                "Go 1.21's runtime does not compute the total time of a stop; gc_transition_end \
                 gives the end of GC stops"
                    .to_owned(),
            );
        }
        match self.record_calls(STW_START) {
            Ok(at) => self.add(Site::StwEnd, STW_START, at),
            Err(why) => self.missing(Site::StwEnd, why),
        }
    }

    /// Both ends of a park or none: its length is what counts.
    fn assists(&mut self) {
        let done = match self.functions.get(PARK_ASSIST).map(Vec::as_slice) {
            Some([park]) => {
                let park = park.entry;
                self.with_code(ASSIST, |code| {
                    code.branches_after(park, CallResult::Bool)
                        .map_err(|e| format!("{ASSIST}: {e}"))
                })
            }
            _ => Err(format!("{PARK_ASSIST} is not a function of its own here")),
        };
        match done.map(|found| found.into_iter().flatten().collect::<Vec<_>>()) {
            Ok(at) if at.is_empty() => {
                self.missing(Site::AssistDone, format!("{ASSIST} does not call {PARK_ASSIST}"));
            }
            Ok(at) => {
                let before = self.plan.probes.len();
                self.entry(Site::AssistPark, PARK_ASSIST);
                if self.plan.probes.len() > before {
                    self.add(Site::AssistDone, ASSIST, at);
                }
            }
            Err(why) => self.missing(Site::AssistDone, why),
        }
    }

    /// `mallocgc` and what stands beside it.
    fn mallocgc(&mut self, site: Site) {
        self.entry(site, MALLOC_GC);
        let variants: Vec<Function<'a>> =
            self.binary.functions.with_prefix(MALLOC_GC).filter(is_size_class_variant).collect();
        for f in variants {
            let Ok(name) = std::str::from_utf8(f.name) else { continue };
            self.functions.insert(name, vec![f]);
            self.entry(site, name);
        }
    }
}

/// `runtime.mallocgc…SC<n>`.
fn is_size_class_variant(f: &Function<'_>) -> bool {
    let digits = f.name.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    digits > 0 && f.name[..f.name.len() - digits].ends_with(b"SC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::fixture;

    #[test]
    fn size_class_variants_are_told_from_helpers() {
        let is = |name: &str| {
            is_size_class_variant(&Function { name: name.as_bytes(), entry: 0, end: 0 })
        };
        assert!(is("runtime.mallocgcSmallNoScanSC2"));
        assert!(is("runtime.mallocgcTinySC26"));
        assert!(!is("runtime.mallocgc"));
        assert!(!is("runtime.mallocgcSmallNoScanSlowPath"));
        assert!(!is("runtime.mallocgcSC"));
        assert!(!is("runtime.mallocgcLarge2"));
    }

    #[test]
    fn what_is_missing_is_reported_with_its_cost() {
        // The fixture has gcStart and mallocgc, as nothing but padding.
        let binary = Binary::load(fixture::go_elf(false)).expect("loads");
        let err = plan(&binary, &PlanOptions::default()).expect_err("nothing to probe");
        assert!(err.to_string().contains("runtime.stopTheWorldWithSema"), "{err}");

        let mut bytes = fixture::go_elf(false);
        bytes[fixture::TEXT_OFFSET as usize] = 0x55;
        bytes[fixture::TEXT_OFFSET as usize + 1] = 0xc3;
        let binary = Binary::load(bytes).expect("loads");
        let plan =
            plan(&binary, &PlanOptions { custom: Some("main.none".into()), ..Default::default() })
                .expect("one is left");
        assert_eq!(plan.probes.len(), 1);
        assert_eq!(plan.probes[0].attached().site, "gc_start");
        assert_eq!(plan.probes[0].file_offset, fixture::TEXT_OFFSET);
        assert!(plan.unavailable.iter().any(|u| u.feature == "stw_stop" && !u.costs.is_empty()));
        assert!(plan.unavailable.iter().any(|u| u.why.contains("main.none")));
        assert!(plan.unavailable.iter().all(|u| u.feature != "mallocgc"), "not asked for");
    }

    #[test]
    fn the_fips_module_is_left_alone() {
        let mut bytes = fixture::go_elf(false);
        bytes[fixture::TEXT_OFFSET as usize] = 0x55;
        let binary = Binary::load(bytes).expect("loads");
        let custom = Some("crypto/internal/fips140/sha256.block".to_owned());
        let plan = plan(&binary, &PlanOptions { custom, ..Default::default() }).expect("gcStart");
        assert_eq!(plan.of(Site::Custom).count(), 0);
        assert!(plan.unavailable.iter().any(|u| u.why.contains("checks its own code")));
    }

    #[test]
    fn site_names_differ() {
        let mut names: Vec<_> = Site::ALL.into_iter().map(site_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Site::ALL.len());
    }
}
