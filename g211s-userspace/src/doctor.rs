//! `g211s doctor`: what works on this machine and on this process, as text or JSON. Attaches
//! nothing to the process.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    bpf::{
        SAMPLER_HZ,
        features::{self, Capability},
    },
    go::plan::{self, PlanOptions},
    record::{AttachedProbe, RuntimeAccess, StackSource, Unavailable},
    report::format::clean,
    runtime::{bias::load_bias, preemption::async_preemption, sampling},
    target::{self, TargetError, procfs::Procfs},
};

/// Schema of the JSON.
pub const SCHEMA: &str = "g211s.doctor/1";

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Version of g211s.
    pub g211s_version: &'static str,
    /// Whether `attach` can work at all.
    pub ok: bool,
    /// The machine, capability by capability.
    pub machine: Vec<Capability>,
    /// The process, where one was given.
    pub target: Option<TargetDiagnosis>,
}

/// What was found of a process.
#[derive(Debug, Serialize)]
pub struct TargetDiagnosis {
    /// As given.
    pub pid: u32,
    /// Its comm.
    pub comm: String,
    /// Its executable.
    pub exe: String,
    /// Its Go version.
    pub go_version: String,
    /// How it was linked.
    pub link_mode: Vec<String>,
    /// Where probes would go.
    pub probes: Vec<AttachedProbe>,
    /// What cannot be had, and why.
    pub unavailable: Vec<Unavailable>,
    /// How the code would be found that keeps its world from stopping.
    pub stacks: StackSource,
    /// Which of the Go runtime's own figures can be read from its memory.
    pub runtime: RuntimeAccess,
    /// Why `g211s heap` cannot read the memory profile that the runtime keeps by itself; `None` where it can.
    pub no_heap_profile: Option<String>,
}

/// Examines the machine, and a process if one is given.
///
/// # Errors
/// [`TargetError`] if the process cannot be examined.
pub fn examine(pid: Option<u32>) -> Result<Diagnosis, TargetError> {
    let target = pid.map(examine_target).transpose()?;
    let machine = features::probe();
    Ok(Diagnosis {
        schema: SCHEMA,
        g211s_version: env!("CARGO_PKG_VERSION"),
        ok: machine.iter().all(|c| c.ok || !c.required),
        machine,
        target,
    })
}

fn examine_target(pid: u32) -> Result<TargetDiagnosis, TargetError> {
    let procfs = Procfs::default();
    let resolved = target::resolve(&procfs, pid)?;
    let (watch, runtime) = sampling::open(&procfs, &resolved);
    let no_heap_profile = match &watch {
        Some(watch) => watch.heap_profile().err().map(str::to_owned),
        None => Some("the runtime's memory cannot be read: see above".to_owned()),
    };
    let bias = load_bias(&procfs, pid, &resolved.binary).ok();
    let found = async_preemption(&procfs, pid, &resolved.binary, bias);
    let samples_hz = (!found.on).then_some(SAMPLER_HZ);
    let stacks = StackSource { signals: found.on, samples_hz, why: found.why };
    let mut record = resolved.record(Vec::new(), Vec::new());
    let plan = plan::plan_or_why(&resolved.binary, &PlanOptions::default());
    record.unavailable.extend(plan.unavailable);
    Ok(TargetDiagnosis {
        pid,
        comm: record.comm,
        exe: record.exe,
        go_version: record.go_version,
        link_mode: record.link_mode,
        probes: plan.probes.iter().map(plan::PlannedProbe::attached).collect(),
        unavailable: record.unavailable,
        stacks,
        runtime,
        no_heap_profile,
    })
}

/// The diagnosis for people.
pub fn text(d: &Diagnosis) -> String {
    let mut out = String::new();
    let mut line = |s: String| {
        out.push_str(s.trim_end());
        out.push('\n');
    };
    line(format!("g211s {}: this machine", d.g211s_version));
    for c in &d.machine {
        line(format!("  {:<4} {:<12} {}", if c.ok { "yes" } else { "NO" }, c.name, c.why));
        if !c.costs.is_empty() {
            line(format!("       {:<12} without it: {}", "", c.costs));
        }
    }
    if let Some(t) = &d.target {
        line(String::new());
        line(format!("process {} ({}): {}", t.pid, clean(&t.comm), clean(&t.exe)));
        line(format!("  {}, linked {}", clean(&t.go_version), t.link_mode.join(", ")));
        line("  probes that attach would place:".into());
        for p in &t.probes {
            let cost = if p.emulated {
                "emulated: about 1 µs a hit"
            } else {
                "single-stepped: about 12 µs a hit"
            };
            let mut at = String::new();
            let _ = write!(at, "{}+{:#x}", clean(&p.function), p.function_offset);
            line(format!("  yes  {:<20} {at:<46} {:<10} {cost}", p.site, p.instruction));
        }
        for u in &t.unavailable {
            line(format!("  NO   {:<20} {}", u.feature, clean(&u.why)));
            line(format!("       {:<20} without it: {}", "", u.costs));
        }
        line("  code that keeps the world from stopping is found:".into());
        let why = clean(&t.stacks.why);
        if t.stacks.signals {
            line(format!(
                "  yes  {:<20} {why}; some 1 µs for each thread asked to stop",
                "signals"
            ));
        } else {
            line(format!("  NO   {:<20} {why}", "signals"));
        }
        if let Some(hz) = t.stacks.samples_hz {
            line(format!("  yes  {:<20} {hz} a second on every CPU, some 1 µs each", "samples"));
        }
        line("  the Go runtime's own figures, read from its memory:".into());
        if !t.runtime.offsets.is_empty() {
            line(format!("       {:<20} {}", "offsets", clean(&t.runtime.offsets)));
        }
        for f in &t.runtime.features {
            match &f.why_not {
                None => line(format!("  yes  {}", f.name)),
                Some(why) => {
                    line(format!("  NO   {:<20} {}", f.name, clean(why)));
                    line(format!("       {:<20} without it: {}", "", f.costs));
                }
            }
        }
    }
    if let Some(t) = &d.target {
        line("  its heap, by `g211s heap`:".into());
        match &t.no_heap_profile {
            None => line("  yes  memory profile       the runtime keeps one".into()),
            Some(why) => line(format!("  NO   {:<20} {}", "memory profile", clean(why))),
        }
    }
    line(String::new());
    line(if d.ok {
        "g211s can attach here.".into()
    } else {
        "g211s cannot attach here: see the lines with NO above.".into()
    });
    out
}
