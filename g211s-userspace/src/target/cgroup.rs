//! CPU quotas of a process's cgroup and of those above it, v1 and v2, from files under an injectable
//! root: which there are, and how often they ran out. Must not know delays.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::record::Quota;

/// What the quotas did to a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Periods in which a quota ran out.
    pub count: u64,
    /// How long that kept its cgroup off the CPUs, ns.
    pub ns: u64,
}

/// The cgroups of a process that have a CPU quota.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    folders: Vec<PathBuf>,
    list: Vec<Quota>,
    before: Vec<Throttled>,
}

/// Where hierarchies with the cpu controller are mounted, and whether as v2.
const MOUNTS: [(&str, bool); 4] =
    [("cpu", false), ("cpu,cpuacct", false), ("", true), ("unified", true)];

impl Quotas {
    /// Finds the quotas that bind a process now. `cgroups` is its `/proc/PID/cgroup`; `root` is
    /// `/sys/fs/cgroup`.
    pub fn find(cgroups: &str, root: &Path) -> Self {
        let (mut folders, mut list) = (Vec::new(), Vec::new());
        for line in cgroups.lines() {
            let mut parts = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let v2 = controllers.is_empty();
            // `..`: the cgroup lies outside of our cgroup namespace.
            if (!v2 && !controllers.split(',').any(|c| c == "cpu")) || path.contains("..") {
                continue;
            }
            for (mount, _) in MOUNTS.iter().filter(|(_, is_v2)| *is_v2 == v2) {
                let top = root.join(mount);
                let mut folder = top.join(path.trim_start_matches('/'));
                while folder.starts_with(&top) {
                    if let Some((quota_us, period_us)) = quota_of(&folder)
                        && !folders.contains(&folder)
                    {
                        let below = folder.strip_prefix(&top).unwrap_or(&folder);
                        let cgroup = format!("/{}", below.display());
                        list.push(Quota { cgroup, quota_us, period_us });
                        folders.push(folder.clone());
                    }
                    if folder == top || !folder.pop() {
                        break;
                    }
                }
            }
        }
        let before = folders.iter().map(|f| read(f)).collect();
        Self { folders, list, before }
    }

    /// They, innermost first.
    pub fn list(&self) -> &[Quota] {
        &self.list
    }

    /// Takes what [`Self::find`] finds now, and goes on counting those that it had; whether anything is
    /// different.
    pub fn renew(&mut self, mut found: Self) -> bool {
        if found.list == self.list {
            return false;
        }
        for (folder, before) in found.folders.iter().zip(&mut found.before) {
            if let Some(at) = self.folders.iter().position(|f| f == folder) {
                *before = self.before[at];
            }
        }
        *self = found;
        true
    }

    /// What they did since [`Self::find`]: that of the one which did most.
    pub fn since(&self) -> Throttled {
        self.folders
            .iter()
            .zip(&self.before)
            .map(|(folder, before)| {
                let now = read(folder);
                Throttled {
                    count: now.count.saturating_sub(before.count),
                    ns: now.ns.saturating_sub(before.ns),
                }
            })
            .max_by_key(|t| t.ns)
            .unwrap_or_default()
    }
}

/// Quota and period of a cgroup, µs.
fn quota_of(folder: &Path) -> Option<(u64, u64)> {
    let text = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let number = |s: Option<&str>| s?.trim().parse::<i64>().ok().filter(|n| *n > 0);
    let pair = if let Some(max) = text("cpu.max") {
        let mut words = max.split_whitespace();
        (number(words.next()), number(words.next()))
    } else {
        (number(text("cpu.cfs_quota_us").as_deref()), number(text("cpu.cfs_period_us").as_deref()))
    };
    // Where the kernel does not say the period, it is its default.
    Some((pair.0? as u64, pair.1.unwrap_or(100_000) as u64))
}

fn read(folder: &Path) -> Throttled {
    let text = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
    };
    Throttled {
        count: value("nr_throttled").unwrap_or(0),
        // v1 counts nanoseconds, v2 microseconds.
        ns: value("throttled_time")
            .or_else(|| value("throttled_usec").map(|us| us.saturating_mul(1000)))
            .unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("it has one")).expect("temp dir");
        fs::write(path, text).expect("temp dir");
    }

    #[test]
    fn quotas_of_both_versions_and_of_ancestors() {
        let root = std::env::temp_dir().join(format!("g211s-cgroup-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        write(&root, "cpu/pod/cpu.cfs_quota_us", "50000\n");
        write(&root, "cpu/pod/cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_time 7000\n");
        write(&root, "cpu/pod/app/cpu.cfs_quota_us", "-1\n");
        write(&root, "a/b/cpu.max", "20000 100000\n");
        write(&root, "a/b/cpu.stat", "usage_usec 1\nnr_throttled 1\nthrottled_usec 3\n");
        write(&root, "a/cpu.max", "max 100000\n");
        let v1 = Quotas::find("5:memory:/x\n4:cpu,cpuacct:/pod/app\n", &root);
        assert_eq!(v1.folders, [root.join("cpu/pod")]);
        let quota = Quota { cgroup: "/pod".into(), quota_us: 50_000, period_us: 100_000 };
        assert_eq!(v1.list(), [quota]);
        let v2 = Quotas::find("0::/a/b\n", &root);
        assert_eq!(v2.folders, [root.join("a/b")]);
        write(&root, "cpu/pod/cpu.stat", "nr_periods 9\nnr_throttled 6\nthrottled_time 9500\n");
        write(&root, "a/b/cpu.stat", "usage_usec 1\nnr_throttled 2\nthrottled_usec 8\n");
        assert_eq!(v1.since(), Throttled { count: 2, ns: 2500 });
        assert_eq!(v2.since(), Throttled { count: 1, ns: 5000 });
        let mut renewed = v2.clone();
        assert!(!renewed.renew(Quotas::find("0::/a/b\n", &root)));
        write(&root, "a/cpu.max", "30000 50000\n");
        assert!(renewed.renew(Quotas::find("0::/a/b\n", &root)));
        assert_eq!(renewed.list()[1].cgroup, "/a");
        assert_eq!(renewed.since(), Throttled { count: 1, ns: 5000 }, "counted on");
        assert!(Quotas::find("0::/\n", &root).list().is_empty());
        assert!(Quotas::find("0::/../../etc\nnonsense\n", &root).list().is_empty());
        let _ = fs::remove_dir_all(&root);
    }
}
