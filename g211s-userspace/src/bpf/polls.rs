//! How network polls are counted on this kernel: by `fentry` on the system calls themselves, or by the
//! tracepoints of all system calls. Must not know when it pays to count.

use aya::{
    Btf, Ebpf,
    maps::{Array, MapData, PerCpuArray},
    programs::{BtfTracePoint, FEntry, FExit, ProgramError, tp_btf::BtfTracePointLink},
};

use super::{BpfError, error::failed, error::not_loaded, program, take};
use crate::record::PollSource;

/// Enter program, exit program, and the function that both sit on.
const CALLS: [(&str, &str, &str); 3] = [
    ("enter_epoll_pwait", "exit_epoll_pwait", "__x64_sys_epoll_pwait"),
    ("enter_epoll_wait", "exit_epoll_wait", "__x64_sys_epoll_wait"),
    ("enter_epoll_pwait2", "exit_epoll_pwait2", "__x64_sys_epoll_pwait2"),
];
/// The tracepoints of all system calls; the programs have their names.
const ALL: [&str; 2] = ["sys_exit", "sys_enter"];

/// The counting of polls.
pub(super) struct Polls {
    source: PollSource,
    /// Why it is not a better source.
    pub(super) why: Option<String>,
    switch: Array<MapData, u32>,
    syscalls: PerCpuArray<MapData, u64>,
    /// The tracepoints of all system calls, while they are attached. Dropping detaches.
    links: Vec<BtfTracePointLink>,
}

impl Polls {
    /// Finds and loads the best source, and attaches it if it may stay for the whole run. Nothing is
    /// counted yet.
    pub(super) fn open(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, BpfError> {
        let map_error = |e: aya::maps::MapError| failed("opening a map", &e);
        let switch = Array::try_from(take(ebpf, "POLLS")?).map_err(map_error)?;
        let syscalls = PerCpuArray::try_from(take(ebpf, "SYSCALLS")?).map_err(map_error)?;
        let (source, why) = match fentry(ebpf, btf) {
            Ok(()) => (PollSource::Fentry, None),
            Err(no_fentry) => {
                no_more_fentry(ebpf);
                for name in ALL {
                    program::<BtfTracePoint>(ebpf, name)
                        .and_then(|p| p.load(name, btf).map_err(|e| not_loaded(name, &e)))?;
                }
                (PollSource::Syscalls, Some(no_fentry))
            }
        };
        Ok(Self { source, why, switch, syscalls, links: Vec::new() })
    }

    pub(super) fn source(&self) -> PollSource {
        self.source
    }

    /// Begins to count.
    pub(super) fn begin(&mut self, ebpf: &mut Ebpf) -> Result<(), BpfError> {
        if self.source == PollSource::Syscalls && self.links.is_empty() {
            let attach = |name| {
                let p = program::<BtfTracePoint>(ebpf, name)?;
                let attached = p.attach().and_then(|id| p.take_link(id));
                attached.map_err(|e| failed(format!("attaching {name}"), &e))
            };
            // Both or none: one alone would cost the host, and count half.
            self.links = ALL.into_iter().map(attach).collect::<Result<_, _>>()?;
        }
        self.switch.set(0, 1, 0).map_err(|e| failed("counting polls", &e))
    }

    /// Stops counting, and lets go of what costs others.
    pub(super) fn pause(&mut self) {
        // An array's value can always be written.
        let _ = self.switch.set(0, 0, 0);
        if self.source == PollSource::Syscalls {
            self.links.clear();
        }
    }

    /// System calls of the whole host that were seen while polls were counted, where their source sees
    /// them all.
    pub(super) fn syscalls(&self) -> u64 {
        self.syscalls.get(&0, 0).map_or(0, |values| values.iter().sum())
    }
}

/// Loads and attaches to the system calls themselves. A kernel may load what it then cannot attach.
///
/// # Errors
/// What was refused, and why.
fn fentry(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), String> {
    for (enter, exit, function) in CALLS {
        let refused = |e: ProgramError| {
            let text = failed(format!("fentry on {function}"), &e).to_string();
            // Some kernels refuse this program type to root as well; then "run as root" is no advice.
            let why = text.split("; run g211s as root").next().unwrap_or_default();
            why.trim_end_matches([' ', ':']).replace(". Verifier output:", "")
        };
        let p = program::<FExit>(ebpf, exit).map_err(|e| e.to_string())?;
        p.load(function, btf).map_err(refused)?;
        p.attach().map_err(refused)?;
        let p = program::<FEntry>(ebpf, enter).map_err(|e| e.to_string())?;
        p.load(function, btf).map_err(refused)?;
        p.attach().map_err(refused)?;
    }
    Ok(())
}

/// Loads and attaches to where a socket of an epoll set becomes ready.
///
/// # Errors
/// What was refused, and why.
pub(super) fn readiness(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), String> {
    const FUNCTION: &str = "ep_poll_callback";
    let refused = |e: ProgramError| failed(format!("fentry on {FUNCTION}"), &e).to_string();
    let p = program::<FEntry>(ebpf, FUNCTION).map_err(|e| e.to_string())?;
    p.load(FUNCTION, btf).map_err(refused)?;
    p.attach().map_err(refused).map(|_| ())
}

/// Takes back what [`fentry`] attached before it was refused.
fn no_more_fentry(ebpf: &mut Ebpf) {
    for (enter, exit, _) in CALLS {
        // What was not loaded has nothing to take back.
        let _ = program::<FEntry>(ebpf, enter).map(FEntry::unload);
        let _ = program::<FExit>(ebpf, exit).map(FExit::unload);
    }
}
