//! Reading another process's memory, and a stand-in for tests. Only reads, never stops the target:
//! `process_vm_readv(2)`. A read that fails is an error, never zeros. Must not know Go.

use std::cell::Cell;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::target::procfs::Procfs;

/// Most bytes in one read or batch of reads.
pub const MAX_READ: usize = 64 << 20;
/// Kernel `include/uapi/linux/uio.h`, `UIO_MAXIOV`: most ranges in one system call.
const MAX_IOVECS: usize = 1024;

/// Why memory could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The process has ended, or runs another program by now.
    #[error("the process has ended or runs another program")]
    Gone,
    /// Not allowed.
    #[error("may not read the memory of the process (CAP_SYS_PTRACE is needed)")]
    Denied,
    /// Nothing (readable) is mapped there.
    #[error("no memory at {0:#x}")]
    Unmapped(u64),
    /// More was asked for than is read at once.
    #[error("a read of {0} bytes is too large")]
    TooLarge(usize),
    /// Something else.
    #[error("process_vm_readv: {0}")]
    Other(Errno),
}

/// A process's memory, or something that looks like one.
pub trait Memory {
    /// Fills `buf` from `address`: all or nothing.
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError>;

    /// Reads many ranges with few system calls; which of them succeeded. The bytes of a range that
    /// did not are unspecified.
    fn read_many(&self, ranges: &mut [(u64, &mut [u8])]) -> Vec<bool> {
        ranges.iter_mut().map(|(address, buf)| self.read(*address, buf).is_ok()).collect()
    }

    /// The thread ids that exist now, as the process itself sees them (in its own PID namespace);
    /// `None` where it cannot be told.
    fn threads(&self) -> Option<Vec<u64>> {
        None
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read(address, buf)
    }

    fn read_many(&self, ranges: &mut [(u64, &mut [u8])]) -> Vec<bool> {
        (**self).read_many(ranges)
    }

    fn threads(&self) -> Option<Vec<u64>> {
        (**self).threads()
    }
}

/// What reading has cost and how it went, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// System calls.
    pub calls: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Ranges that could not be read.
    pub failures: u64,
}

/// A live process's memory.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: Pid,
    /// `/proc/PID/mem` as it was when this was made: it stays bound to that address space, so it
    /// tells when the process ended or executed another program.
    mem: File,
    procfs: Procfs,
    counts: Cell<ReadCounts>,
}

impl ProcessMemory {
    /// Fails where the process is gone or may not be read.
    pub fn open(procfs: &Procfs, pid: u32) -> Result<Self, MemoryError> {
        let mem = File::open(procfs.path(pid, "mem")).map_err(|e| match e.raw_os_error() {
            Some(libc_no) => error_of(Errno::from_raw(libc_no), 0),
            None => MemoryError::Gone,
        })?;
        let raw = i32::try_from(pid).map_err(|_| MemoryError::Gone)?;
        Ok(Self {
            pid: Pid::from_raw(raw),
            mem,
            procfs: procfs.clone(),
            counts: Cell::new(ReadCounts::default()),
        })
    }

    /// Its cost so far.
    pub fn counts(&self) -> ReadCounts {
        self.counts.get()
    }

    fn count(&self, f: impl FnOnce(&mut ReadCounts)) {
        let mut counts = self.counts.get();
        f(&mut counts);
        self.counts.set(counts);
    }

    /// Whether what was just read at `address` came from the process that this was made for.
    fn is_same(&self, address: u64) -> bool {
        self.count(|c| c.calls += 1);
        self.mem.read_at(&mut [0], address).is_ok_and(|n| n == 1)
    }

    /// One system call; how many bytes it read.
    fn call(&self, ranges: &mut [(u64, &mut [u8])]) -> Result<usize, Errno> {
        let remote: Vec<RemoteIoVec> = ranges
            .iter()
            .map(|(base, buf)| RemoteIoVec { base: *base as usize, len: buf.len() })
            .collect();
        let mut local: Vec<IoSliceMut> =
            ranges.iter_mut().map(|(_, buf)| IoSliceMut::new(buf)).collect();
        self.count(|c| c.calls += 1);
        process_vm_readv(self.pid, &mut local, &remote)
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        if buf.is_empty() {
            return Ok(());
        }
        let len = buf.len();
        let result = if len > MAX_READ {
            Err(MemoryError::TooLarge(len))
        } else {
            match self.call(&mut [(address, buf)]) {
                Ok(n) if n < len => Err(MemoryError::Unmapped(address.saturating_add(n as u64))),
                Ok(_) if !self.is_same(address) => Err(MemoryError::Gone),
                Ok(_) => Ok(()),
                Err(e) => Err(error_of(e, address)),
            }
        };
        self.count(|c| match result {
            Ok(()) => c.bytes += len as u64,
            Err(_) => c.failures += 1,
        });
        result
    }

    fn read_many(&self, ranges: &mut [(u64, &mut [u8])]) -> Vec<bool> {
        let mut done = vec![false; ranges.len()];
        let mut at = 0;
        while at < ranges.len() {
            // A batch: bounded in number and in bytes.
            let mut bytes = 0_usize;
            let batch = ranges[at..]
                .iter()
                .take(MAX_IOVECS)
                .take_while(|(_, buf)| {
                    bytes = bytes.saturating_add(buf.len());
                    bytes <= MAX_READ
                })
                .count();
            if batch == 0 {
                // Larger than a whole batch may be.
                at += 1;
                continue;
            }
            match self.call(&mut ranges[at..at + batch]) {
                Ok(read) => {
                    // The call ends at the first range that it cannot read as a whole.
                    let mut left = read;
                    let mut n = 0;
                    while n < batch && left >= ranges[at + n].1.len() {
                        left -= ranges[at + n].1.len();
                        n += 1;
                    }
                    let first = ranges[at..at + n].iter().find(|(_, b)| !b.is_empty());
                    if let Some((address, _)) = first
                        && !self.is_same(*address)
                    {
                        break;
                    }
                    done[at..at + n].fill(true);
                    at += if n < batch { n + 1 } else { n };
                }
                // The first range is not readable at all.
                Err(Errno::EFAULT) => at += 1,
                Err(_) => break,
            }
        }
        let read: usize =
            ranges.iter().zip(&done).filter(|(_, ok)| **ok).map(|(r, _)| r.1.len()).sum();
        self.count(|c| {
            c.bytes += read as u64;
            c.failures += done.iter().filter(|ok| !**ok).count() as u64;
        });
        done
    }

    fn threads(&self) -> Option<Vec<u64>> {
        let pid = u32::try_from(self.pid.as_raw()).ok()?;
        let tids = self.procfs.threads(pid).ok()?;
        Some(tids.into_iter().filter_map(|tid| inner_tid(&self.procfs, pid, tid)).collect())
    }
}

/// A thread's id in its own PID namespace: what `gettid` returns to it.
fn inner_tid(procfs: &Procfs, pid: u32, tid: u32) -> Option<u64> {
    let path: PathBuf = procfs.path(pid, "task").join(tid.to_string()).join("status");
    let mut text = String::new();
    File::open(path).ok()?.take(1 << 16).read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

fn error_of(errno: Errno, address: u64) -> MemoryError {
    match errno {
        Errno::ESRCH | Errno::ENOENT => MemoryError::Gone,
        Errno::EPERM | Errno::EACCES => MemoryError::Denied,
        Errno::EFAULT | Errno::EIO => MemoryError::Unmapped(address),
        other => MemoryError::Other(other),
    }
}
