//! CPU quotas of a process's cgroup and of those above it, v1 and v2, from files under an injectable
//! root. A throttled thread looks runnable to the scheduler's tracepoints, so whoever reads delays
//! must know. Must not know delays.

use std::{
    fs,
    path::{Path, PathBuf},
};

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
    before: Vec<Throttled>,
}

/// Where hierarchies with the cpu controller are mounted, and whether as v2.
const MOUNTS: [(&str, bool); 4] =
    [("cpu", false), ("cpu,cpuacct", false), ("", true), ("unified", true)];

impl Quotas {
    /// Finds the quotas that bind a process now. `cgroups` is its `/proc/PID/cgroup`; `root` is
    /// `/sys/fs/cgroup`.
    pub fn find(cgroups: &str, root: &Path) -> Self {
        let mut folders = Vec::new();
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
                    if has_quota(&folder) && !folders.contains(&folder) {
                        folders.push(folder.clone());
                    }
                    if folder == top || !folder.pop() {
                        break;
                    }
                }
            }
        }
        let before = folders.iter().map(|f| read(f)).collect();
        Self { folders, before }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty()
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

fn has_quota(folder: &Path) -> bool {
    let first = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        text.split_whitespace().next().map(str::to_owned)
    };
    first("cpu.max").is_some_and(|max| max != "max")
        || first("cpu.cfs_quota_us").is_some_and(|us| us.parse::<i64>().is_ok_and(|us| us > 0))
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
        let v2 = Quotas::find("0::/a/b\n", &root);
        assert_eq!(v2.folders, [root.join("a/b")]);
        write(&root, "cpu/pod/cpu.stat", "nr_periods 9\nnr_throttled 6\nthrottled_time 9500\n");
        write(&root, "a/b/cpu.stat", "usage_usec 1\nnr_throttled 2\nthrottled_usec 8\n");
        assert_eq!(v1.since(), Throttled { count: 2, ns: 2500 });
        assert_eq!(v2.since(), Throttled { count: 1, ns: 5000 });
        assert!(Quotas::find("0::/a\n", &root).is_empty());
        assert!(Quotas::find("0::/../../etc\nnonsense\n", &root).is_empty());
        let _ = fs::remove_dir_all(&root);
    }
}
