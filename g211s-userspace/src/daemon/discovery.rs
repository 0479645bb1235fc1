//! The Go processes of the machine that are to be watched: what there is, what each executable is (looked at once), and
//! what became of each process so far. Must not know how a process is watched.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::select::{Facts, Selection};
use crate::elf::buildinfo::BuildInfo;
use crate::go::{Binary, BinaryError};
use crate::target::container::container;
use crate::target::procfs::Procfs;
use crate::target::{ResolvedTarget, TargetError, resolve_with};

/// Executables that are remembered.
const MAX_PROGRAMS: usize = 1024;
/// A process is looked at so long after it replaced its program: its runtime has set itself up by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Processes that wait for that.
const MAX_YOUNG: usize = 4096;
/// A process that could not be watched is tried again after this, twice as long each time …
const RETRY: Duration = Duration::from_mins(1);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_hours(1);

/// Which executable: device, inode, size, time of its last change.
type Identity = (u64, u64, u64, i64);

/// What an executable is.
#[derive(Clone)]
enum Program {
    Other,
    Go(Arc<GoProgram>),
}

/// What is known of a Go program without much reading.
#[derive(Debug)]
pub struct GoProgram {
    /// Go version.
    pub go_version: String,
    module: String,
    package: String,
}

struct Remembered {
    program: Program,
    /// While a target of it is watched.
    binary: Weak<Binary>,
    used: u64,
}

/// What became of a process.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// No Go program.
    Other,
    /// A rule leaves it out.
    Excluded,
    Watched,
    /// It could not be watched; to be tried again then.
    Failed {
        again: Instant,
        after: Duration,
    },
}

struct Known {
    start_ticks: u64,
    fate: Fate,
}

/// A Go process that is to be watched and is not yet.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// PID.
    pub pid: u32,
    /// What rules and labels go by.
    pub facts: Facts,
    /// Its program.
    pub program: Arc<GoProgram>,
    start_ticks: u64,
    identity: Identity,
}

/// How many processes are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Left out by a rule.
    pub excluded: u64,
    /// Could not be watched.
    pub failed: u64,
    /// Executables that are remembered.
    pub programs: u64,
}

/// The state of it.
pub struct Discovery {
    procfs: Procfs,
    selection: Selection,
    programs: HashMap<Identity, Remembered>,
    processes: BTreeMap<u32, Known>,
    /// Just began; to be looked at then.
    young: BTreeMap<u32, Instant>,
    round: u64,
}

impl Discovery {
    /// Nothing is known yet.
    pub fn new(procfs: Procfs, selection: Selection) -> Self {
        Self {
            procfs,
            selection,
            programs: HashMap::new(),
            processes: BTreeMap::new(),
            young: BTreeMap::new(),
            round: 0,
        }
    }

    /// Goes by these rules from now on: processes that were left out or failed are looked at again.
    pub fn select(&mut self, selection: Selection) {
        self.selection = selection;
        self.processes.retain(|_, known| matches!(known.fate, Fate::Watched | Fate::Other));
    }

    /// A process has replaced its program.
    pub fn execed(&mut self, pid: u32, now: Instant) {
        self.processes.remove(&pid);
        if self.young.len() < MAX_YOUNG {
            self.young.insert(pid, now + SETTLE);
        }
    }

    /// Those of the young that are old enough now.
    pub fn grown(&mut self, now: Instant) -> Vec<Candidate> {
        let due: Vec<u32> =
            self.young.iter().filter(|(_, at)| **at <= now).map(|(pid, _)| *pid).collect();
        for pid in &due {
            self.young.remove(pid);
        }
        due.into_iter().filter_map(|pid| self.look(pid, now)).collect()
    }

    /// Looks at all processes.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn scan(&mut self, now: Instant) -> io::Result<Vec<Candidate>> {
        self.round += 1;
        let pids = self.procfs.processes()?;
        let mut gone = std::mem::take(&mut self.processes);
        for pid in &pids {
            self.processes.extend(gone.remove(pid).map(|known| (*pid, known)));
        }
        let found =
            pids.into_iter().filter(|pid| !self.young.contains_key(pid)).collect::<Vec<_>>();
        let found = found.into_iter().filter_map(|pid| self.look(pid, now)).collect();
        if self.programs.len() > MAX_PROGRAMS {
            let round = self.round;
            self.programs.retain(|_, p| p.used == round || p.binary.strong_count() > 0);
        }
        Ok(found)
    }

    fn look(&mut self, pid: u32, now: Instant) -> Option<Candidate> {
        // A process that goes away meanwhile, or a kernel thread, is nothing to watch.
        let stat = self.procfs.stat(pid).ok().filter(|s| !s.is_kernel_thread && s.state != 'Z')?;
        let start_ticks = stat.start_ticks;
        if let Some(known) = self.processes.get(&pid).filter(|k| k.start_ticks == start_ticks) {
            match known.fate {
                Fate::Failed { again, .. } if again <= now => {}
                _ => return None,
            }
        }
        let identity = self.procfs.exe_identity(pid).ok()?;
        let program = match self.program(pid, identity) {
            Ok(Program::Go(program)) => program,
            Ok(Program::Other) => {
                self.processes.insert(pid, Known { start_ticks, fate: Fate::Other });
                return None;
            }
            // Not readable, most often: as good as no Go program until it is started anew.
            Err(_) => return None,
        };
        let facts = self.facts(pid, &program)?;
        if !self.selection.takes(&facts) {
            self.processes.insert(pid, Known { start_ticks, fate: Fate::Excluded });
            return None;
        }
        Some(Candidate { pid, facts, program, start_ticks, identity })
    }

    fn facts(&self, pid: u32, program: &GoProgram) -> Option<Facts> {
        let (exe, _) = self.procfs.exe(pid).ok()?;
        let cgroup = self.procfs.cgroup(pid).unwrap_or_default();
        Some(Facts {
            executable: exe.rsplit('/').next().unwrap_or_default().to_owned(),
            comm: self.procfs.comm(pid).ok()?,
            container: container(&cgroup).map(|c| c.id).unwrap_or_default(),
            cgroup,
            module: program.module.clone(),
            package: program.package.clone(),
            pid,
        })
    }

    fn program(&mut self, pid: u32, identity: Identity) -> io::Result<Program> {
        let round = self.round;
        if let Some(known) = self.programs.get_mut(&identity) {
            known.used = round;
            return Ok(known.program.clone());
        }
        let program = read(self.procfs.open_exe(pid)?);
        let remembered = Remembered { program: program.clone(), binary: Weak::new(), used: round };
        self.programs.insert(identity, remembered);
        Ok(program)
    }

    /// All that is to be known before it is watched.
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn resolve(&mut self, candidate: &Candidate) -> Result<ResolvedTarget, TargetError> {
        let Self { procfs, programs, .. } = self;
        let identity = candidate.identity;
        resolve_with(procfs, candidate.pid, &mut |file: File| -> Result<_, BinaryError> {
            let known = programs.get_mut(&identity);
            if let Some(binary) = known.as_ref().and_then(|k| k.binary.upgrade()) {
                return Ok(binary);
            }
            let binary = Arc::new(Binary::load(file)?);
            if let Some(known) = known {
                known.binary = Arc::downgrade(&binary);
            }
            Ok(binary)
        })
    }

    /// It is watched from now on.
    pub fn watched(&mut self, candidate: &Candidate) {
        let known = Known { start_ticks: candidate.start_ticks, fate: Fate::Watched };
        self.processes.insert(candidate.pid, known);
    }

    /// It could not be watched, or was let go: it is tried again later.
    pub fn failed(&mut self, candidate: &Candidate, now: Instant) {
        let before = match self.processes.get(&candidate.pid).map(|k| k.fate) {
            Some(Fate::Failed { after, .. }) => after,
            _ => RETRY / 2,
        };
        let after = (before * 2).min(RETRY_MAX);
        let fate = Fate::Failed { again: now + after, after };
        self.processes.insert(candidate.pid, Known { start_ticks: candidate.start_ticks, fate });
    }

    /// How many are in which state.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { programs: self.programs.len() as u64, ..Counts::default() };
        for known in self.processes.values() {
            match known.fate {
                Fate::Excluded => counts.excluded += 1,
                Fate::Failed { .. } => counts.failed += 1,
                Fate::Other | Fate::Watched => {}
            }
        }
        counts
    }
}

fn read(file: File) -> Program {
    let Some(build) = BuildInfo::of_program(file) else { return Program::Other };
    Program::Go(Arc::new(GoProgram {
        go_version: build.go_version,
        module: build.module.unwrap_or_default(),
        package: build.path.unwrap_or_default(),
    }))
}
