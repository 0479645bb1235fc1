//! What `/proc` says about processes. The root is injectable, so tests use a directory. Must not
//! know Go, nor decide what a finding means.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most bytes read of one file (a process controls its own `cmdline`).
const MAX_FILE: u64 = 1 << 20;
/// Kernel `include/linux/proc_ns.h`, `PROC_PID_INIT_INO`: the inode of the initial PID namespace.
const INIT_PID_NS_INODE: u64 = 0xEFFF_FFFC;
/// Kernel `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// A procfs mount.
#[derive(Clone, Debug)]
pub struct Procfs {
    root: PathBuf,
}

/// What `/proc/PID/status` says, as far as it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `Tgid`: the process; equal to the PID unless it names a thread.
    pub tgid: u32,
    /// `State`: `R`, `S`, `D`, `Z` …
    pub state: char,
    /// `NSpid`: the PID in the namespace of this procfs mount, then in each nested one down to the
    /// process's own.
    pub ns_pids: Vec<u32>,
    /// `Uid`: the real one.
    pub uid: u32,
    /// `Cpus_allowed_list`, as written (`0-1`).
    pub cpus_allowed: String,
    /// `Kthread: 1` (Linux 6.8+); `None` where the kernel does not say.
    pub kthread: Option<bool>,
}

/// What `/proc/PID/stat` says, as far as it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 3.
    pub state: char,
    /// Field 9 has `PF_KTHREAD`.
    pub is_kernel_thread: bool,
    /// Field 22: clock ticks between boot and the start of the process. With the PID it names a
    /// process uniquely.
    pub start_ticks: u64,
}

impl Default for Procfs {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl Procfs {
    /// The procfs mounted at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `/proc/PID/NAME`.
    pub fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    /// Whether there is such a process or thread.
    pub fn exists(&self, pid: u32) -> bool {
        self.root.join(pid.to_string()).exists()
    }

    /// Name of the process or thread; a process can set it.
    pub fn comm(&self, pid: u32) -> io::Result<String> {
        Ok(text(&self.path(pid, "comm"))?.trim_end_matches('\n').to_owned())
    }

    /// Name of one thread.
    pub fn thread_comm(&self, pid: u32, tid: u32) -> io::Result<String> {
        let line = text(&self.path(pid, "task").join(tid.to_string()).join("comm"))?;
        Ok(line.trim_end_matches('\n').to_owned())
    }

    /// Where the executable is, in the process's mount namespace, and whether it was deleted or
    /// replaced since. `NotFound` also for kernel threads and zombies.
    pub fn exe(&self, pid: u32) -> io::Result<(String, bool)> {
        let link = fs::read_link(self.path(pid, "exe"))?.to_string_lossy().into_owned();
        Ok(match link.strip_suffix(" (deleted)") {
            Some(path) => (path.to_owned(), true),
            None => (link, false),
        })
    }

    /// The executable itself, also where its path names another file by now.
    pub fn open_exe(&self, pid: u32) -> io::Result<File> {
        File::open(self.path(pid, "exe"))
    }

    /// `/proc/PID/status`.
    pub fn status(&self, pid: u32) -> io::Result<Status> {
        parse_status(&text(&self.path(pid, "status"))?)
            .ok_or_else(|| invalid("unexpected format of status"))
    }

    /// `/proc/PID/stat`.
    pub fn stat(&self, pid: u32) -> io::Result<Stat> {
        parse_stat(&text(&self.path(pid, "stat"))?)
            .ok_or_else(|| invalid("unexpected format of stat"))
    }

    /// `/proc/PID/task/TID/stat`.
    pub fn thread_stat(&self, pid: u32, tid: u32) -> io::Result<Stat> {
        parse_stat(&text(&self.path(pid, "task").join(tid.to_string()).join("stat"))?)
            .ok_or_else(|| invalid("unexpected format of stat"))
    }

    /// CPU time that the hypervisor took since boot, ns, by CPU; empty where `/proc/stat` cannot be read.
    pub fn steal(&self) -> BTreeMap<u16, u64> {
        text(&self.root.join("stat")).map(|s| parse_steal(&s)).unwrap_or_default()
    }

    /// The system call that a sleeping thread is in; `None` where it is in none or that cannot be told.
    pub fn thread_syscall(&self, pid: u32, tid: u32) -> Option<i32> {
        let path = self.path(pid, "task").join(tid.to_string()).join("syscall");
        text(&path).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// The most specific cgroup path: of version 2 or of version 1's cpu controller.
    pub fn cgroup(&self, pid: u32) -> io::Result<String> {
        Ok(parse_cgroup(&text(&self.path(pid, "cgroup"))?))
    }

    /// Threads, ascending.
    pub fn threads(&self, pid: u32) -> io::Result<Vec<u32>> {
        let mut tids = Vec::new();
        for entry in fs::read_dir(self.path(pid, "task"))? {
            tids.extend(entry?.file_name().to_str().and_then(|n| n.parse::<u32>().ok()));
        }
        tids.sort_unstable();
        Ok(tids)
    }

    /// Command line, arguments separated by spaces; empty for kernel threads and zombies.
    pub fn cmdline(&self, pid: u32) -> io::Result<String> {
        let line = text(&self.path(pid, "cmdline"))?;
        Ok(line.trim_end_matches('\0').replace('\0', " "))
    }

    /// What is mapped at an address of a process: a path, or a name in brackets; empty for anonymous memory,
    /// `None` where nothing is.
    pub fn mapped_at(&self, pid: u32, address: u64) -> io::Result<Option<String>> {
        /// Most bytes of the list that are read.
        const MAX_MAPS: u64 = 64 << 20;
        let file = File::open(self.path(pid, "maps"))?;
        let mut lines = io::BufReader::new(file.take(MAX_MAPS)).lines().map_while(Result::ok);
        Ok(lines.find_map(|line| {
            // address perms offset dev inode, then the path after many spaces.
            let mut words = line.splitn(6, ' ');
            let (start, end) = words.next()?.split_once('-')?;
            let hex = |s| u64::from_str_radix(s, 16).ok();
            let path = words.nth(4).unwrap_or_default().trim_start();
            (hex(start)?..hex(end)?).contains(&address).then(|| path.to_owned())
        }))
    }

    /// All processes, ascending.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            pids.extend(entry?.file_name().to_str().and_then(|n| n.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// Which file the executable is: device, inode, length, time of its last change (ns, modulo).
    /// `NotFound` also for kernel threads and zombies.
    pub fn exe_identity(&self, pid: u32) -> io::Result<(u64, u64, u64, i64)> {
        let m = fs::metadata(self.path(pid, "exe"))?;
        Ok((
            m.dev(),
            m.ino(),
            m.len(),
            m.mtime().wrapping_mul(1 << 30).wrapping_add(m.mtime_nsec()),
        ))
    }

    /// Inode of the process's PID namespace.
    pub fn pid_ns(&self, pid: u32) -> io::Result<u64> {
        Ok(fs::metadata(self.path(pid, "ns/pid"))?.ino())
    }

    /// Whether the caller lives in the initial PID namespace, i.e. whether PIDs here are the ones
    /// that the kernel side sees. `false` where it cannot be told.
    pub fn in_init_pid_ns(&self) -> bool {
        fs::metadata(self.root.join("self/ns/pid")).is_ok_and(|m| m.ino() == INIT_PID_NS_INODE)
    }
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parse_status(text: &str) -> Option<Status> {
    let mut status = Status::default();
    let mut has_tgid = false;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key {
            "Tgid" => {
                status.tgid = value.parse().ok()?;
                has_tgid = true;
            }
            "State" => status.state = value.chars().next()?,
            "NSpid" => {
                status.ns_pids = value.split_whitespace().filter_map(|p| p.parse().ok()).collect();
            }
            "Uid" => status.uid = value.split_whitespace().next()?.parse().ok()?,
            "Cpus_allowed_list" => value.clone_into(&mut status.cpus_allowed),
            "Kthread" => status.kthread = Some(value == "1"),
            _ => {}
        }
    }
    has_tgid.then_some(status)
}

/// The name (field 2) may hold spaces and parentheses: fields are counted from its last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let flags: u64 = fields.get(6)?.parse().ok()?;
    Some(Stat {
        state: fields.first()?.chars().next()?,
        is_kernel_thread: flags & PF_KTHREAD != 0,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// `cpuN user nice system idle iowait irq softirq steal …`, in `USER_HZ`, which is 100 on all that Go runs on
/// (include/asm-generic/param.h).
fn parse_steal(stat: &str) -> BTreeMap<u16, u64> {
    const TICK_NS: u64 = 10_000_000;
    let of_line = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_whitespace();
        let cpu = words.next()?.parse().ok()?;
        Some((cpu, words.nth(7)?.parse::<u64>().ok()?.saturating_mul(TICK_NS)))
    };
    // The line of all CPUs together has no number.
    stat.lines().skip(1).map_while(of_line).collect()
}

fn parse_cgroup(text: &str) -> String {
    let (mut v2, mut cpu) = ("", "");
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if id == "0" && controllers.is_empty() {
            v2 = path;
        } else if controllers.split(',').any(|c| c == "cpu") {
            cpu = path;
        }
    }
    let depth = |path: &str| path.split('/').filter(|p| !p.is_empty()).count();
    let best = if depth(cpu) > depth(v2) { cpu } else { v2 };
    if best.is_empty() { if cpu.is_empty() { "/" } else { cpu } } else { best }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_told_by_cpu() {
        let stat =
            "cpu  9 0 1 2 0 0 0 7 0 0\ncpu0 5 0 1 1 0 0 0 3 0 0\ncpu11 4 0 0 1 0 0 0 4\nintr 9 1\n";
        let steal = parse_steal(stat);
        assert_eq!(steal, BTreeMap::from([(0, 30_000_000), (11, 40_000_000)]));
        assert_eq!(parse_steal("cpu\ncpu0 1 2\ncpux 1"), BTreeMap::new());
    }

    #[test]
    fn status_fields() {
        let status = parse_status(
            "Name:\tsvc\nState:\tS (sleeping)\nTgid:\t77\nNSpid:\t77\t5\t1\nUid:\t1000\t1001\t0\t0\n\
             Cpus_allowed_list:\t0-3,6\nKthread:\t0\n",
        );
        assert_eq!(
            status,
            Some(Status {
                tgid: 77,
                state: 'S',
                ns_pids: vec![77, 5, 1],
                uid: 1000,
                cpus_allowed: "0-3,6".to_owned(),
                kthread: Some(false),
            })
        );
        assert_eq!(parse_status("Name:\tx\n"), None);
        assert_eq!(parse_status("Tgid:\tx\n"), None);
    }

    #[test]
    fn stat_survives_any_name() {
        let stat =
            parse_stat("9 (a) R ) b) S 1 9 9 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 9 0 8675309 1 1");
        assert_eq!(
            stat,
            Some(Stat { state: 'S', is_kernel_thread: false, start_ticks: 8_675_309 })
        );
        let kernel = parse_stat("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 4 0 0");
        assert!(kernel.expect("parses").is_kernel_thread);
        assert_eq!(parse_stat("9 (x) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn the_most_specific_cgroup_wins() {
        assert_eq!(parse_cgroup("0::/system.slice/svc.service\n"), "/system.slice/svc.service");
        assert_eq!(parse_cgroup("4:cpu,cpuacct:/pods/a\n1:memory:/m/m/m\n0::/\n"), "/pods/a");
        assert_eq!(parse_cgroup("4:cpu:/a\n0::/b/c:d\n"), "/b/c:d");
        assert_eq!(parse_cgroup("4:cpuset:/a\n"), "/");
        assert_eq!(parse_cgroup("2:cpu:/\n"), "/");
        assert_eq!(parse_cgroup(""), "/");
    }

    #[test]
    fn this_process() {
        let (proc, pid) = (Procfs::default(), std::process::id());
        let status = proc.status(pid).expect("status");
        assert_eq!(status.tgid, pid);
        assert!(!status.cpus_allowed.is_empty());
        assert!(proc.threads(pid).expect("threads").contains(&pid));
        assert!(proc.stat(pid).expect("stat").start_ticks > 0);
        assert!(proc.thread_stat(pid, pid).is_ok());
        assert_eq!(proc.thread_syscall(pid, u32::MAX), None);
        assert!(!proc.thread_comm(pid, pid).expect("comm").is_empty());
        assert!(proc.cgroup(pid).expect("cgroup").starts_with('/'));
        assert!(!proc.cmdline(pid).expect("cmdline").contains('\0'));
        assert_eq!(
            proc.exe(pid).expect("exe").0,
            std::env::current_exe().unwrap().to_str().unwrap()
        );
        assert!(proc.pid_ns(pid).expect("ns") > 0);
        assert!(proc.processes().expect("a list").contains(&pid));
        assert!(proc.exe_identity(pid).expect("exe").2 > 0);
    }
}
