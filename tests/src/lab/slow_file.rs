//! A file whose pages come as late as we like, whatever the machine's disk: on a FUSE file system
//! that we serve ourselves (the kernel's protocol 7.31, of which a single file needs a few requests).
//!
//! The file system is taken out of the tree as soon as the file is open (`MNT_DETACH`): it lives
//! as long as somebody has the file, and nothing is left behind however we end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::random::Random;
use super::span::Span;
use crate::proc::now_ns;

/// Pages of the file: each is late once, and there are enough for any trial.
const PAGES: u64 = 1 << 16;
const PAGE: u64 = 4096;

/// The file, and its server.
pub struct SlowFile {
    file: Option<File>,
    stop: Arc<AtomicBool>,
    served: Arc<Mutex<Vec<Span>>>,
    server: Option<JoinHandle<()>>,
}

impl SlowFile {
    /// A file whose reads take from … to, as the seed settles.
    pub fn serve(seed: u64, from: Duration, to: Duration) -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device = device.context("/dev/fuse")?;
        let folder = crate::target_dir().join(format!("lab-{}-{seed}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = mount(
            Some("g211s-lab"),
            &folder,
            Some("fuse.g211s-lab"),
            flags,
            Some(options.as_str()),
        );
        if let Err(error) = mounted {
            let _ = std::fs::remove_dir(&folder);
            return Err(error).context("mounting a FUSE file system");
        }
        let (stop, served) = (Arc::default(), Arc::default());
        let mut server = Server {
            device,
            random: Random::new(seed),
            delay: (from, to),
            stop: Arc::clone(&stop),
            served: Arc::clone(&served),
        };
        let server = std::thread::spawn(move || server.run());
        let file = File::open(folder.join(NAME));
        let detached = umount2(&folder, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&folder);
        let slow = Self { file: file.ok(), stop, served, server: Some(server) };
        detached.context("unmounting")?;
        ensure!(slow.file.is_some(), "the file system that was mounted has no file");
        Ok(slow)
    }

    /// Where another process can open it.
    pub fn path(&self) -> PathBuf {
        let fd = self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        format!("/proc/{}/fd/{fd}", std::process::id()).into()
    }

    /// When reads were waited for: from the request to our answer.
    pub fn served(&self) -> Vec<Span> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The server first: with its end of the connection closed nobody can wait for it any more.
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        self.file = None;
    }
}

/// The file's name, and the ids of it and of the folder it is in.
const NAME: &str = "pages";
const FOLDER_ID: u64 = 1;
const FILE_ID: u64 = 2;

/// Requests, from linux/fuse.h (`enum fuse_opcode`).
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// A page at a time, asked for asynchronously, so that who wants it sleeps as it would for a disk.
const READAHEAD: u32 = PAGE as u32;
const ASYNC_READ: u32 = 1;
const KEEP_CACHE: u32 = 2;
const IN_HEADER: usize = 40;
const A_DAY: u64 = 86_400;

struct Server {
    device: File,
    random: Random,
    delay: (Duration, Duration),
    stop: Arc<AtomicBool>,
    served: Arc<Mutex<Vec<Span>>>,
}

impl Server {
    fn run(&mut self) {
        // The kernel wants room for its largest request.
        let mut buffer = vec![0; 1 << 17];
        while !self.stop.load(Ordering::Relaxed) {
            let mut ready = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(50_u8)) == Ok(0) {
                continue;
            }
            match self.device.read(&mut buffer) {
                Ok(n) if n >= IN_HEADER => self.serve(&buffer[..n]),
                // A request that was taken back before we had read it.
                Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
                // The file system is gone.
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn serve(&mut self, request: &[u8]) {
        let began = now_ns();
        let opcode = u32_at(request, 4);
        let unique = u64_at(request, 8);
        let node = u64_at(request, 16);
        let body = &request[IN_HEADER..];
        let answer = match opcode {
            op::INIT => Ok(init()),
            op::LOOKUP if node == FOLDER_ID && body == b"pages\0" => Ok(entry()),
            op::GETATTR => Ok(attributes(node)),
            op::OPEN => Ok([0_u64.to_le_bytes(), u64::from(KEEP_CACHE).to_le_bytes()].concat()),
            op::READ => {
                std::thread::sleep(self.random.lasting(self.delay.0, self.delay.1));
                Ok(vec![0x5A; u32_at(body, 16) as usize])
            }
            op::RELEASE | op::FLUSH => Ok(Vec::new()),
            op::LOOKUP => Err(Errno::ENOENT),
            // These want no answer.
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => return,
            _ => Err(Errno::ENOSYS),
        };
        // The end of the wait is before the answer: what happens after it is none of our making.
        let ended = now_ns();
        let (error, data) = match answer {
            Ok(data) => (0, data),
            Err(errno) => (-(errno as i32), Vec::new()),
        };
        let mut out = Vec::with_capacity(16 + data.len());
        out.extend((16 + data.len() as u32).to_le_bytes());
        out.extend(error.to_le_bytes());
        out.extend(unique.to_le_bytes());
        out.extend(data);
        // Noted before it can be seen. Who asked may be gone, and then nobody was kept waiting.
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if opcode == op::READ {
            served.push(Span::new(began, ended));
        }
        if self.device.write_all(&out).is_err() && opcode == op::READ {
            served.pop();
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// `struct fuse_init_out`.
fn init() -> Vec<u8> {
    let mut out = Vec::new();
    for field in [7, 31, READAHEAD, ASYNC_READ] {
        out.extend(field.to_le_bytes());
    }
    // max_background and congestion_threshold, max_write, time_gran.
    out.extend([16_u16, 12].map(u16::to_le_bytes).concat());
    out.extend([PAGE as u32, 1].map(u32::to_le_bytes).concat());
    out.resize(64, 0);
    out
}

/// `struct fuse_entry_out` of the file.
fn entry() -> Vec<u8> {
    let mut out = Vec::new();
    for field in [FILE_ID, 0, A_DAY, A_DAY, 0] {
        out.extend(field.to_le_bytes());
    }
    out.extend(attr(FILE_ID));
    out
}

/// `struct fuse_attr_out`.
fn attributes(node: u64) -> Vec<u8> {
    let mut out = [A_DAY.to_le_bytes(), 0_u64.to_le_bytes()].concat();
    out.extend(attr(node));
    out
}

/// `struct fuse_attr`.
fn attr(node: u64) -> Vec<u8> {
    let file = node == FILE_ID;
    let size = if file { PAGES * PAGE } else { 0 };
    let mut out = Vec::new();
    // ino, size, blocks, and three times.
    for field in [node, size, size / 512, 0, 0, 0] {
        out.extend(field.to_le_bytes());
    }
    let mode: u32 = if file { 0o10_0444 } else { 0o4_0555 };
    // Nanoseconds of three times, mode, nlink, uid, gid, rdev, blksize, flags.
    for field in [0, 0, 0, mode, 1, 0, 0, 0, PAGE as u32, 0] {
        out.extend(field.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_structs_have_the_kernels_sizes() {
        let sizes = [init(), entry(), attributes(1), attr(1)].map(|bytes| bytes.len());
        assert_eq!(sizes, [64, 128, 104, 88]);
    }

    /// Needs root and FUSE; without, there is nothing to try.
    #[test]
    fn a_page_comes_late_once() {
        let late = Duration::from_millis(20);
        let Ok(slow) = SlowFile::serve(1, late, late) else { return };
        let file = File::open(slow.path()).unwrap();
        let mut byte = [0];
        let began = Instant::now();
        file.read_exact_at(&mut byte, 5 * PAGE).unwrap();
        assert!(began.elapsed() >= late);
        file.read_exact_at(&mut byte, 5 * PAGE + 7).unwrap();
        let served = slow.served();
        assert_eq!((byte, served.len()), ([0x5A], 1));
        assert!(served[0].len_ns() >= late.as_nanos() as u64);
    }
}
