//! Reading another process's memory, and a stand-in for tests. Only reads, never stops the target:
//! `process_vm_readv(2)`. A read that fails is an error, never zeros. Must not know Go.

use std::cell::Cell;
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

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

    /// Lets the process run on for a while before the next look at it. What stands for a process in
    /// a test does not change by itself, so it need not wait.
    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
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

    fn wait(&self, time: Duration) {
        (**self).wait(time);
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

#[cfg(test)]
pub(crate) mod fake {
    //! Memory made of a few ranges of bytes.

    use std::time::Duration;

    use super::{Memory, MemoryError};

    /// Ranges by where they begin; what is in none is unmapped.
    #[derive(Debug, Default)]
    pub(crate) struct FakeMemory {
        pub(crate) ranges: Vec<(u64, Vec<u8>)>,
        pub(crate) threads: Option<Vec<u64>>,
    }

    impl FakeMemory {
        /// Maps `len` zeros.
        pub(crate) fn map(&mut self, address: u64, len: usize) {
            self.ranges.push((address, vec![0; len]));
        }

        /// Writes the low `size` bytes of a number into a mapped range.
        pub(crate) fn put(&mut self, address: u64, value: u64, size: usize) {
            let (base, bytes) = self
                .ranges
                .iter_mut()
                .find(|(a, b)| address >= *a && address + size as u64 <= *a + b.len() as u64)
                .expect("is mapped");
            let at = (address - *base) as usize;
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    impl Memory for FakeMemory {
        fn read(&self, address: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
            let found = self.ranges.iter().find_map(|(base, bytes)| {
                let at = usize::try_from(address.checked_sub(*base)?).ok()?;
                bytes.get(at..at.checked_add(buf.len())?)
            });
            buf.copy_from_slice(found.ok_or(MemoryError::Unmapped(address))?);
            Ok(())
        }

        fn threads(&self) -> Option<Vec<u64>> {
            self.threads.clone()
        }

        fn wait(&self, _: Duration) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> ProcessMemory {
        ProcessMemory::open(&Procfs::default(), std::process::id()).expect("ourselves")
    }

    #[test]
    fn reads_what_is_there_and_fails_on_what_is_not() {
        let (memory, there) = (own(), *b"what is there");
        let mut buf = [0; 13];
        memory.read(there.as_ptr() as u64, &mut buf).expect("reads");
        assert_eq!(buf, there);
        assert_eq!(memory.read(8, &mut buf), Err(MemoryError::Unmapped(8)));
        assert_eq!(
            memory.read(0, &mut vec![0; MAX_READ + 1]),
            Err(MemoryError::TooLarge(MAX_READ + 1))
        );
        memory.read(8, &mut []).expect("nothing is always there");
        let counts = memory.counts();
        assert_eq!((counts.bytes, counts.failures), (13, 2));
        assert_eq!(counts.calls, 3, "two reads, and the look whether it is the same process");
    }

    #[test]
    fn one_bad_range_costs_only_itself() {
        let memory = own();
        let there: Vec<u64> = (0..3000).collect();
        let address = |n: usize| &raw const there[n] as u64;
        let mut bufs = vec![[0_u8; 8]; 3000];
        // More than one system call takes, with holes at the start, in the middle and at the end.
        let hole = |n: usize| matches!(n, 0 | 1 | 1023 | 1024 | 1500 | 2999);
        let mut ranges: Vec<(u64, &mut [u8])> = bufs
            .iter_mut()
            .enumerate()
            .map(|(n, b)| (if hole(n) { 16 } else { address(n) }, &mut b[..]))
            .collect();
        let done = memory.read_many(&mut ranges);
        for (n, (ok, buf)) in done.iter().zip(&bufs).enumerate() {
            assert_eq!(*ok, !hole(n), "{n}");
            assert!(!ok || u64::from_le_bytes(*buf) == n as u64, "{n}");
        }
        let counts = memory.counts();
        assert_eq!((counts.bytes, counts.failures), (8 * 2994, 6));
        assert!(counts.calls < 30, "{} calls", counts.calls);
        assert_eq!(memory.read_many(&mut []), Vec::<bool>::new());
    }

    #[test]
    fn a_process_that_has_ended_or_become_another_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let memory = ProcessMemory::open(&Procfs::default(), child.id()).expect("a child");
        child.kill().expect("kills");
        child.wait().expect("ends");
        assert_eq!(memory.read(4096, &mut [0]), Err(MemoryError::Gone));
        assert_eq!(memory.read_many(&mut [(4096, &mut [0])]), [false]);
        assert!(matches!(
            ProcessMemory::open(&Procfs::default(), child.id()),
            Err(MemoryError::Gone)
        ));
    }

    #[test]
    fn threads_are_told() {
        let tids = own().threads().expect("ourselves");
        assert!(tids.contains(&u64::from(std::process::id())));
    }
}
