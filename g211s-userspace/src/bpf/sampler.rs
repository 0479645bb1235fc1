//! Looks at what runs on every CPU, many times a second, for targets whose threads no signal asks to stop.
//! Must not know which targets those are.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::{
        PerfEvent,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
};

use super::{BpfError, error::failed, error::not_loaded, program, take};

/// How often each CPU is looked at, a second.
pub const HZ: u32 = 1000;
const PROGRAM: &str = "cpu_clock";

/// The CPU clock of every CPU, where attached.
pub(super) struct Sampler {
    ticks: PerCpuArray<MapData, u64>,
}

impl Sampler {
    /// Takes its map. Attaches nothing.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let ticks =
            PerCpuArray::try_from(take(ebpf, "TICKS")?).map_err(|e| failed("opening a map", &e))?;
        Ok(Self { ticks })
    }

    /// Attaches to every CPU that is online.
    pub(super) fn begin(ebpf: &mut Ebpf) -> Result<(), BpfError> {
        let cpus = aya::util::online_cpus()
            .map_err(|(what, e)| failed(format!("listing CPUs ({what})"), &e))?;
        let p = program::<PerfEvent>(ebpf, PROGRAM)?;
        p.load().map_err(|e| not_loaded(PROGRAM, &e))?;
        for cpu in cpus {
            let attached = p.attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Period(1_000_000_000 / u64::from(HZ)),
                false,
            );
            if let Err(e) = attached {
                // Some CPUs alone would name code by where it happened to run.
                let error = failed(format!("sampling CPU {cpu} by its clock"), &e);
                let _ = p.unload();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ticks so far, on all CPUs.
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.get(&0, 0).map_or(0, |values| values.iter().sum())
    }
}
