//! Finds the processes that take the places of those that are gone. Must not know how a process is watched.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::model::identity::Identity;
use crate::elf::buildinfo::BuildInfo;
use crate::target::procfs::Procfs;

/// A process is attached to so long after it was first seen: its runtime has set itself up by then.
const SETTLE: Duration = Duration::from_secs(1);
/// One that could not be watched is tried again after this, twice as long each time …
const RETRY: Duration = Duration::from_secs(2);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// Processes of which it is remembered what they are.
const MAX_KNOWN: usize = 65_536;

/// A process that is gone.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    /// What it was.
    pub(crate) identity: Identity,
    /// Its PID.
    pub(crate) pid: u32,
    /// When it began, clock ticks since boot.
    pub(crate) start_ticks: u64,
}

/// A process, uniquely.
type Key = (u32, u64);

/// Who is looked for, and what was found so far.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    lost: Vec<Lost>,
    /// Since when those that fit are known, and when to try them.
    due: HashMap<Key, (Instant, Duration)>,
    /// What processes are, by their executables; `None`: no Go program.
    known: BTreeMap<Key, (String, Option<Identity>)>,
}

impl Follow {
    /// A process is gone: its successor is looked for.
    pub(crate) fn lost(&mut self, lost: Lost) {
        self.lost.push(lost);
    }

    /// Whether anybody is looked for.
    pub(crate) fn is_looking(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Looks at all processes; those to be watched now, each with whose place it takes. `watched`: PIDs of those
    /// that are.
    pub(crate) fn look(
        &mut self,
        procfs: &Procfs,
        watched: &[u32],
        now: Instant,
    ) -> Vec<(u32, usize)> {
        let pids = procfs.processes().unwrap_or_default();
        let mut found = Vec::new();
        for pid in pids.into_iter().filter(|pid| !watched.contains(pid)) {
            let Ok(stat) = procfs.stat(pid) else { continue };
            if stat.is_kernel_thread || stat.state == 'Z' {
                continue;
            }
            let key = (pid, stat.start_ticks);
            if let Some(identity) = self.identity(procfs, key) {
                found.push((key, identity));
            }
        }
        self.choose(&found, now)
    }

    /// Which of these Go processes are to be watched now.
    fn choose(&mut self, found: &[(Key, Identity)], now: Instant) -> Vec<(u32, usize)> {
        let mut chosen: Vec<(u32, usize)> = Vec::new();
        for (at, lost) in self.lost.iter().enumerate() {
            // Younger, or the same process with another program.
            let later = |key: &Key| key.1 > lost.start_ticks || key.0 == lost.pid;
            let free = |key: &Key| chosen.iter().all(|(pid, _)| *pid != key.0);
            let fits = found.iter().filter(|(key, _)| later(key) && free(key));
            let fits = fits.filter_map(|(key, id)| Some((lost.identity.succeeds(id)?, *key)));
            let Some((_, key)) = fits.max_by_key(|(fit, key)| (*fit, key.1)) else { continue };
            let (when, _) = self.due.entry(key).or_insert((now + SETTLE, RETRY));
            if *when <= now {
                chosen.push((key.0, at));
            }
        }
        chosen
    }

    /// It is watched: nobody is looked for in its place.
    pub(crate) fn found(&mut self, at: usize) {
        if at < self.lost.len() {
            self.lost.remove(at);
        }
        if self.lost.is_empty() {
            self.due.clear();
            self.known.clear();
        }
    }

    /// It could not be watched; whether that is the first time.
    pub(crate) fn failed(&mut self, pid: u32, now: Instant) -> bool {
        let mut first = false;
        for (_, (when, after)) in self.due.iter_mut().filter(|(key, _)| key.0 == pid) {
            first |= *after == RETRY;
            *when = now + *after;
            *after = (*after * 2).min(RETRY_MAX);
        }
        first
    }

    /// What a process is, if a Go program that may be one of those that are looked for.
    fn identity(&mut self, procfs: &Procfs, key: Key) -> Option<Identity> {
        let (exe, _) = procfs.exe(key.0).ok()?;
        // A process may have replaced its program since.
        if let Some((_, identity)) = self.known.get(&key).filter(|(of, _)| *of == exe) {
            return identity.clone();
        }
        let cgroup = procfs.cgroup(key.0).unwrap_or_default();
        let may = |l: &Lost| l.identity.exe == exe || l.identity.cgroup == cgroup;
        // Not remembered: it may be one of others that are looked for later.
        if !self.lost.iter().any(may) {
            return None;
        }
        let build = BuildInfo::of_program(procfs.open_exe(key.0).ok()?);
        let identity = build.map(|b| Identity { exe: exe.clone(), cgroup, module: b.module });
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(key, (exe, identity.clone()));
        identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(exe: &str) -> Identity {
        Identity { exe: exe.into(), cgroup: "/s".into(), module: Some("m".into()) }
    }

    #[test]
    fn a_successor_is_younger_and_has_had_its_second() {
        let mut follow = Follow::default();
        follow.lost(Lost { identity: id("/a"), pid: 10, start_ticks: 500 });
        let begin = Instant::now();
        let older = [((11, 400), id("/a"))];
        assert!(follow.choose(&older, begin + SETTLE * 9).is_empty());
        let found = [((11, 400), id("/a")), ((12, 600), id("/a"))];
        assert!(follow.choose(&found, begin).is_empty());
        assert_eq!(follow.choose(&found, begin + SETTLE), [(12, 0)]);
        follow.found(0);
        assert!(!follow.is_looking());
    }

    #[test]
    fn two_that_are_gone_have_two_successors() {
        let mut follow = Follow::default();
        for pid in [10, 11] {
            follow.lost(Lost { identity: id("/a"), pid, start_ticks: 500 });
        }
        let found = [((12, 600), id("/a"))];
        let now = Instant::now();
        follow.choose(&found, now);
        assert_eq!(follow.choose(&found, now + SETTLE), [(12, 0)]);
        let found = [((12, 600), id("/a")), ((13, 601), id("/a"))];
        follow.choose(&found, now + SETTLE);
        assert_eq!(follow.choose(&found, now + SETTLE * 3), [(13, 0), (12, 1)]);
    }

    #[test]
    fn a_process_that_replaces_its_program_succeeds_itself() {
        let mut follow = Follow::default();
        follow.lost(Lost { identity: id("/a"), pid: 10, start_ticks: 500 });
        let found = [((10, 500), id("/a"))];
        let now = Instant::now();
        follow.choose(&found, now);
        assert_eq!(follow.choose(&found, now + SETTLE), [(10, 0)]);
        assert!(follow.failed(10, now + SETTLE), "it is said once");
        assert!(!follow.failed(10, now + SETTLE * 4));
        assert!(follow.choose(&found, now + SETTLE * 4).is_empty());
    }
}
