//! From a PID to something that can be observed: a live process of a supported Go executable, or one
//! clear line that says why not and what to do. Must not know probes' purposes, BPF or output.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::elf::ElfError;
use crate::go::{Binary, BinaryError};
use crate::record::{AttachedProbe, Target, Unavailable};

pub mod cgroup;
pub mod container;
pub mod procfs;

use procfs::Procfs;

/// Why a PID cannot be observed. Each is one line: what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No such process.
    #[error(
        "no process {0}: check the PID (it may have exited; in a container, use the host's PID)"
    )]
    NoSuchProcess(u32),
    /// A thread of another process.
    #[error("{tid} is a thread of process {tgid} ({comm}): use --pid {tgid}")]
    Thread {
        /// As given.
        tid: u32,
        /// Its process.
        tgid: u32,
        /// The process's name.
        comm: String,
    },
    /// A kernel thread.
    #[error("{0} ({1}) is a kernel thread, it runs no Go program: give the PID of a Go service")]
    KernelThread(u32, String),
    /// It has exited and was not waited for.
    #[error("process {0} ({1}) is a zombie, it has exited: give the PID of a running Go service")]
    Zombie(u32, String),
    /// `/proc/PID/exe` may not be read.
    #[error(
        "may not read the executable of process {pid} ({comm}, uid {uid}): run g211s as root, with \
         CAP_SYS_PTRACE"
    )]
    PermissionDenied {
        /// The process.
        pid: u32,
        /// Its name.
        comm: String,
        /// Its owner.
        uid: u32,
    },
    /// No supported Go program.
    #[error("process {pid} ({comm}, {exe}) cannot be observed: {why}")]
    Binary {
        /// The process.
        pid: u32,
        /// Its name.
        comm: String,
        /// Its executable.
        exe: String,
        /// Why not.
        #[source]
        why: BinaryError,
    },
    /// Something in `/proc` could not be read or understood.
    #[error("cannot read {} of process {pid}: {why}; is /proc mounted, and the process still there?",
        .path.display())]
    Procfs {
        /// The process.
        pid: u32,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        why: io::Error,
    },
}

impl TargetError {
    /// Exit code of the command: 2 where the PID given was the wrong one, 1 where the environment or
    /// a damaged file is to blame.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoSuchProcess(_)
            | Self::Thread { .. }
            | Self::KernelThread(..)
            | Self::Zombie(..) => 2,
            Self::Binary { why, .. } => match why {
                BinaryError::Elf(ElfError::NotElf | ElfError::Unsupported(_))
                | BinaryError::NotGo
                | BinaryError::NotX86(_)
                | BinaryError::TooOld(_) => 2,
                BinaryError::Elf(_) => 1,
            },
            Self::PermissionDenied { .. } | Self::Procfs { .. } => 1,
        }
    }
}

/// A process that can be observed: a snapshot of what `/proc` and its executable say.
#[derive(Debug)]
pub struct ResolvedTarget {
    /// As given (the caller's PID namespace).
    pub pid: u32,
    /// As the kernel side sees it; `None` where the caller is in a nested PID namespace, from which
    /// it cannot be told.
    pub tgid: Option<u32>,
    /// PIDs in the namespaces nested in the caller's, outermost first, its own last; empty where it
    /// shares the caller's.
    pub nested_pids: Vec<u32>,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// Path of the executable in the process's own mount namespace.
    pub exe: String,
    /// The file at that path is another one by now, or gone.
    pub exe_deleted: bool,
    /// A path that leads to the executable in any case: `/proc/PID/exe`. Uprobes attach by it.
    pub exe_path: PathBuf,
    /// The most specific cgroup path.
    pub cgroup: String,
    /// Owner.
    pub uid: u32,
    /// CPUs it may run on (`0-1`).
    pub cpus_allowed: String,
    /// Threads, ascending.
    pub threads: Vec<u32>,
    /// Clock ticks from boot to its start: with the PID it names the process uniquely.
    pub start_ticks: u64,
    /// Inode of its PID namespace, where readable.
    pub pid_ns: Option<u64>,
    /// Its executable.
    pub binary: Arc<Binary>,
}

impl ResolvedTarget {
    /// The head of its recording, with the probes that were attached and what could not be had.
    /// Where the PID of the initial namespace is not known, the given one stands in.
    pub fn record(&self, probes: Vec<AttachedProbe>, unavailable: Vec<Unavailable>) -> Target {
        Target {
            pid: self.pid,
            tgid: self.tgid.unwrap_or(self.pid),
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            cgroup: self.cgroup.clone(),
            go_version: self.binary.build.go_version.clone(),
            module: self.binary.build.module.clone(),
            link_mode: self.binary.link_mode(),
            probes,
            unavailable,
            cpus_allowed: self.cpus_allowed.clone(),
            threads: self.threads.clone(),
            runtime: None,
            quotas: Vec::new(),
            stacks: None,
        }
    }

    /// Whether the PID still names the process that was resolved.
    pub fn is_alive(&self, procfs: &Procfs) -> bool {
        procfs.stat(self.pid).is_ok_and(|s| s.start_ticks == self.start_ticks && s.state != 'Z')
    }
}

/// Finds out all there is to know about a PID before probes are attached.
///
/// The executable is opened once, through `/proc/PID/exe`, so it is the one that runs, wherever its
/// path leads by now.
pub fn resolve(procfs: &Procfs, pid: u32) -> Result<ResolvedTarget, TargetError> {
    resolve_with(procfs, pid, &mut |file| Binary::load(file).map(Arc::new))
}

/// The same, where `load` may know the executable already.
pub fn resolve_with(
    procfs: &Procfs,
    pid: u32,
    load: &mut dyn FnMut(File) -> Result<Arc<Binary>, BinaryError>,
) -> Result<ResolvedTarget, TargetError> {
    let failed = |file: &str| {
        let path = procfs.path(pid, file);
        move |why: io::Error| match why.raw_os_error() {
            // ENOENT, ESRCH: it went away between two reads.
            Some(2 | 3) => TargetError::NoSuchProcess(pid),
            _ => TargetError::Procfs { pid, path, why },
        }
    };
    if pid == 0 || !procfs.exists(pid) {
        return Err(TargetError::NoSuchProcess(pid));
    }
    let status = procfs.status(pid).map_err(failed("status"))?;
    let comm = procfs.comm(pid).map_err(failed("comm"))?;
    if status.tgid != pid {
        let comm = procfs.comm(status.tgid).unwrap_or(comm);
        return Err(TargetError::Thread { tid: pid, tgid: status.tgid, comm });
    }
    let stat = procfs.stat(pid).map_err(failed("stat"))?;
    if status.kthread.unwrap_or(stat.is_kernel_thread) {
        return Err(TargetError::KernelThread(pid, comm));
    }
    if status.state == 'Z' || status.state == 'X' {
        return Err(TargetError::Zombie(pid, comm));
    }
    let exe_failed = |why: io::Error| match why.kind() {
        io::ErrorKind::PermissionDenied => {
            TargetError::PermissionDenied { pid, comm: comm.clone(), uid: status.uid }
        }
        _ => failed("exe")(why),
    };
    let (exe, exe_deleted) = procfs.exe(pid).map_err(exe_failed)?;
    let file = procfs.open_exe(pid).map_err(exe_failed)?;
    let binary = load(file).map_err(|why| TargetError::Binary {
        pid,
        comm: comm.clone(),
        exe: exe.clone(),
        why,
    })?;
    Ok(ResolvedTarget {
        pid,
        tgid: procfs.in_init_pid_ns().then_some(pid),
        nested_pids: status.ns_pids.into_iter().skip(1).collect(),
        comm,
        exe,
        exe_deleted,
        exe_path: procfs.path(pid, "exe"),
        cgroup: procfs.cgroup(pid).map_err(failed("cgroup"))?,
        uid: status.uid,
        cpus_allowed: status.cpus_allowed,
        threads: procfs.threads(pid).map_err(failed("task"))?,
        start_ticks: stat.start_ticks,
        pid_ns: procfs.pid_ns(pid).ok(),
        binary,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::elf::fixture;

    /// A directory that looks like procfs, removed when dropped.
    struct FakeProc(PathBuf);

    impl FakeProc {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("g211s-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).expect("temp dir");
            Self(root)
        }

        fn process(&self, pid: u32, tgid: u32, state: char, flags: u64, exe: Option<&Path>) {
            let dir = self.0.join(pid.to_string());
            for tid in [pid, pid + 1] {
                fs::create_dir_all(dir.join("task").join(tid.to_string())).expect("task");
            }
            let write = |name: &str, text: String| fs::write(dir.join(name), text).expect(name);
            write("comm", format!("svc{pid}\n"));
            write(
                "status",
                format!(
                    "Name:\tsvc\nState:\t{state} (x)\nTgid:\t{tgid}\nNSpid:\t{pid}\t1\nUid:\t7 7 7 7\n\
                     Cpus_allowed_list:\t0-1\n"
                ),
            );
            write(
                "stat",
                format!("{pid} (svc) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 2 0 4242 0 0"),
            );
            write("cgroup", "0::/pods/svc\n".to_owned());
            if let Some(exe) = exe {
                symlink(exe, dir.join("exe")).expect("exe");
            }
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, bytes).expect("file");
            path
        }

        fn resolve(&self, pid: u32) -> Result<ResolvedTarget, TargetError> {
            resolve(&Procfs::new(&self.0), pid)
        }
    }

    impl Drop for FakeProc {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_go_process_resolves() {
        let proc = FakeProc::new("go");
        let exe = proc.file("tiny", &fixture::go_elf(false));
        proc.process(40, 40, 'S', 0, Some(&exe));
        let target = proc.resolve(40).expect("resolves");
        assert_eq!(target.threads, [40, 41]);
        assert_eq!((target.start_ticks, target.uid), (4242, 7));
        assert_eq!(target.nested_pids, [1]);
        assert_eq!(target.tgid, None, "the fake has no namespaces");
        assert!(target.is_alive(&Procfs::new(&proc.0)));
        let record = target.record(Vec::new(), Vec::new());
        assert_eq!(record.comm, "svc40");
        assert_eq!(record.exe, exe.to_str().expect("utf-8"));
        assert_eq!(record.cgroup, "/pods/svc");
        assert_eq!(record.go_version, "go1.27.3");
        assert_eq!(record.module.as_deref(), Some("example.com/tiny"));
        assert_eq!(record.link_mode, ["stripped"]);
        assert_eq!((record.pid, record.tgid), (40, 40));
    }

    #[test]
    fn each_refusal_says_what_to_do() {
        let proc = FakeProc::new("refused");
        let script = proc.file("script", b"#!/bin/sh\n");
        let old = {
            let mut b = fixture::go_elf(false);
            let at = b.windows(8).position(|w| w == b"go1.27.3").expect("version");
            b[at..at + 8].copy_from_slice(b"go1.19.3");
            proc.file("old", &b)
        };
        let damaged = proc.file("damaged", &fixture::go_elf(false)[..0x2800]);
        proc.process(50, 40, 'S', 0, None);
        proc.process(60, 60, 'S', 0x0020_0000, None);
        proc.process(70, 70, 'Z', 0, None);
        proc.process(80, 80, 'S', 0, Some(&script));
        proc.process(90, 90, 'S', 0, Some(&old));
        proc.process(100, 100, 'S', 0, Some(&damaged));
        for (pid, code, words) in [
            (0, 2, "no process 0"),
            (30, 2, "check the PID"),
            (50, 2, "use --pid 40"),
            (60, 2, "kernel thread"),
            (70, 2, "zombie"),
            (80, 2, "not an ELF file"),
            (100, 1, "malformed executable"),
        ] {
            let err = proc.resolve(pid).expect_err("is refused");
            assert!(err.to_string().contains(words), "{pid}: {err}");
            assert!(!err.to_string().contains('\n'), "one line");
            assert_eq!(err.exit_code(), code, "{err}");
        }
        // The kernel's side of it can be observed.
        let old = proc.resolve(90).expect("resolves").binary.known_runtime().expect_err("too old");
        assert!(old.to_string().contains("built with go1.19.3"), "{old}");
        let denied = TargetError::PermissionDenied { pid: 1, comm: "svc".to_owned(), uid: 7 };
        assert_eq!(denied.exit_code(), 1);
        assert!(denied.to_string().contains("as root"));
    }

    #[test]
    fn this_test_is_no_go_program() {
        let err = resolve(&Procfs::default(), std::process::id()).expect_err("is Rust");
        assert!(matches!(&err, TargetError::Binary { why: BinaryError::NotGo, .. }), "{err}");
        assert_eq!(err.exit_code(), 2);
    }

    #[test]
    fn another_process_under_the_same_pid_is_told() {
        let proc = FakeProc::new("reused");
        let exe = proc.file("tiny", &fixture::go_elf(false));
        proc.process(40, 40, 'S', 0, Some(&exe));
        let target = proc.resolve(40).expect("resolves");
        fs::write(
            proc.0.join("40/stat"),
            "40 (svc) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 2 0 9999 0 0",
        )
        .expect("stat");
        assert!(!target.is_alive(&Procfs::new(&proc.0)));
    }
}
