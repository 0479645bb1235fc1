//! A cgroup of ours, by version 1 or 2 of the hierarchy: one that gets its CPU before others do,
//! and may have a quota, with its own account of when it was throttled. It is removed when its guard goes, after the processes in it (which must be gone).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::span::Span;
use crate::proc::now_ns;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A cgroup of ours.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    version: Version,
    /// The root's `cgroup.subtree_control`, if we switched the controller on there.
    switched_on: Option<PathBuf>,
}

impl Cgroup {
    /// One whose processes get what they want before others do.
    pub fn preferred() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let Some((version, root)) = controller(&mounts, |root| {
            let file = root.join("cgroup.controllers");
            let controllers = std::fs::read_to_string(file).unwrap_or_default();
            controllers.split_whitespace().any(|c| c == "cpu")
        }) else {
            bail!("no cgroup hierarchy here has the cpu controller");
        };
        let switched_on = match version {
            Version::One => None,
            Version::Two => switch_on(&root)?,
        };
        let n = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = root.join(format!("g211s-lab-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let group = Self { folder, version, switched_on };
        match version {
            Version::One => group.write("cpu.shares", "262144")?,
            Version::Two => group.write("cpu.weight", "10000")?,
        }
        Ok(group)
    }

    /// One whose processes may use a CPU for `quota` in each `period`, and get that before others do.
    pub fn with_quota(quota: Duration, period: Duration) -> Result<Self> {
        let group = Self::preferred()?;
        let (quota, period) = (quota.as_micros(), period.as_micros());
        match group.version {
            Version::One => {
                group.write("cpu.cfs_period_us", &period.to_string())?;
                group.write("cpu.cfs_quota_us", &quota.to_string())?;
            }
            Version::Two => group.write("cpu.max", &format!("{quota} {period}"))?,
        }
        Ok(group)
    }

    /// Its hierarchy's version, as a reader knows it.
    pub fn version(&self) -> &'static str {
        match self.version {
            Version::One => "cgroup v1",
            Version::Two => "cgroup v2",
        }
    }

    /// Moves a process with all its threads into it.
    pub fn add(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.folder.join(file);
        std::fs::write(&path, text).with_context(|| format!("{}: {text}", path.display()))
    }

    /// Watches its account.
    pub fn watch(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let spans = Arc::new(Mutex::new(Vec::new()));
        let (file, version) = (self.folder.join("cpu.stat"), self.version);
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&spans));
        let thread = std::thread::spawn(move || {
            let mut account = Account::default();
            while !stopped.load(Ordering::Relaxed) {
                let total =
                    std::fs::read_to_string(&file).ok().and_then(|t| throttled(&t, version));
                if let Some(span) = total.and_then(|total| account.look(now_ns(), total)) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(span);
                }
                std::thread::sleep(LOOK);
            }
        });
        Watch { stop, spans, thread: Some(thread) }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just reaped may be in its cgroup for a moment longer.
        let deadline = Instant::now() + Duration::from_secs(2);
        while std::fs::remove_dir(&self.folder).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(file) = &self.switched_on {
            let _ = std::fs::write(file, "-cpu");
        }
    }
}

/// How often the account is looked at: how well the end of a throttling is known.
const LOOK: Duration = Duration::from_micros(500);

/// The hierarchy with the cpu controller, from `/proc/mounts`.
fn controller(mounts: &str, has_cpu: impl Fn(&Path) -> bool) -> Option<(Version, PathBuf)> {
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let mut two = None;
    for field in fields {
        let [_, at, kind, options, ..] = field[..] else { continue };
        if kind == "cgroup" && options.split(',').any(|o| o == "cpu") {
            return Some((Version::One, at.into()));
        }
        if kind == "cgroup2" && has_cpu(Path::new(at)) {
            two = Some((Version::Two, at.into()));
        }
    }
    two
}

fn switch_on(root: &Path) -> Result<Option<PathBuf>> {
    let file = root.join("cgroup.subtree_control");
    let on = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    if on.split_whitespace().any(|c| c == "cpu") {
        return Ok(None);
    }
    std::fs::write(&file, "+cpu").context("switching the cpu controller on")?;
    Ok(Some(file))
}

/// Total time throttled, ns, from `cpu.stat`.
fn throttled(stat: &str, version: Version) -> Option<u64> {
    let (key, unit) = match version {
        Version::One => ("throttled_time ", 1),
        Version::Two => ("throttled_usec ", 1_000),
    };
    stat.lines().find_map(|l| l.strip_prefix(key))?.trim().parse::<u64>().ok().map(|n| n * unit)
}

/// The account's total grows when a throttling ends, by its length.
#[derive(Debug, Default)]
struct Account {
    last: Option<(u64, u64)>,
}

impl Account {
    /// A look at the account; the throttling that ended since the last one: its part that is
    /// certain, since its end is somewhere between the two looks.
    fn look(&mut self, now: u64, total: u64) -> Option<Span> {
        let last = self.last.replace((now, total));
        let (before, was) = last?;
        let length = total.checked_sub(was).filter(|&length| length > 0)?;
        let span = Span::new(now.saturating_sub(length), before);
        (span.from_ns < span.to_ns).then_some(span)
    }
}

/// A running watch.
pub struct Watch {
    stop: Arc<AtomicBool>,
    spans: Arc<Mutex<Vec<Span>>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// When the cgroup was throttled: exact to half a millisecond and on the safe side, on one CPU.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_in_either_hierarchy() {
        let one = "cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup2 /c/u cgroup2 rw 0 0\n";
        let two = "cgroup2 /c cgroup2 rw 0 0\n";
        assert_eq!(controller(one, |_| true), Some((Version::One, "/c/cpu,cpuacct".into())));
        assert_eq!(controller(two, |_| true), Some((Version::Two, "/c".into())));
        assert_eq!(controller(two, |_| false), None);
    }

    #[test]
    fn only_the_certain_part_of_a_throttling_is_told() {
        let mut account = Account::default();
        assert_eq!(account.look(100, 50), None);
        assert_eq!(account.look(110, 50), None);
        assert_eq!(account.look(120, 90), Some(Span::new(80, 110)));
        assert_eq!(account.look(130, 95), None);
    }

    #[test]
    fn the_account_is_read_in_nanoseconds() {
        let one = "nr_periods 3\nnr_throttled 1\nthrottled_time 1234\n";
        let two = "usage_usec 5\nnr_periods 3\nnr_throttled 1\nthrottled_usec 12\n";
        assert_eq!(throttled(one, Version::One), Some(1_234));
        assert_eq!(throttled(two, Version::Two), Some(12_000));
    }
}
