//! The guest's whole file system, as the kernel unpacks it: a `cpio` archive in the "newc" form
//! (kernel `Documentation/driver-api/early-userspace/buffer-format.rst`). Must not know what the files are for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// An archive under construction.
pub(crate) struct Initramfs<W: Write> {
    out: W,
    inode: u32,
    /// Paths that are there, without their leading slash.
    there: BTreeSet<String>,
}

impl Initramfs<BufWriter<File>> {
    /// Begins one in a file.
    pub(crate) fn create(file: &Path) -> Result<Self> {
        let out = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        Ok(Self::new(BufWriter::new(out)))
    }
}

impl<W: Write> Initramfs<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0, there: BTreeSet::new() }
    }

    /// A directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        if path.is_empty() || self.there.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, DIRECTORY, &[])
    }

    /// A file that holds `data`.
    pub(crate) fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let path = path.trim_matches('/');
        if self.there.contains(path) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, REGULAR | (mode & 0o7777), data)
    }

    /// A file of the host's at `path`, with what it needs to run: its libraries and their loader,
    /// where the host has them. So what runs in the guest is the very file that runs here.
    pub(crate) fn host_file(&mut self, path: &str, host: &Path) -> Result<()> {
        let data = std::fs::read(host).with_context(|| format!("reading {}", host.display()))?;
        let mode = std::fs::metadata(host)?.permissions().mode();
        self.file(path, mode, &data)?;
        if !data.starts_with(b"\x7fELF") {
            return Ok(());
        }
        for library in libraries(host)? {
            let data = std::fs::read(&library)
                .with_context(|| format!("reading {}", library.display()))?;
            self.file(&library.to_string_lossy(), 0o755, &data)?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush().context("writing the initramfs")?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        path.rsplit_once('/').map_or(Ok(()), |(above, _)| self.directory(above))
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        ensure!(self.there.insert(path.to_owned()), "{path} is in the initramfs twice");
        self.inode += 1;
        let (size, name) = (u32::try_from(data.len())?, u32::try_from(path.len() + 1)?);
        // Inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        let mut head = header.into_bytes();
        head.extend(path.as_bytes());
        head.push(0);
        let padding = |len: usize| &[0; 3][..len.wrapping_neg() % 4];
        let parts = [&head[..], padding(head.len()), data, padding(data.len())];
        parts.iter().try_for_each(|p| self.out.write_all(p)).context("writing the initramfs")
    }
}

/// The libraries and the loader of a program; none for one that needs none.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let ldd = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    Ok(paths_of(&String::from_utf8_lossy(&ldd.stdout)))
}

/// The files that `ldd` names: `name => /path (0x…)`, or `/path (0x…)` for the loader.
fn paths_of(ldd: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let path = line.rsplit_once(" (0x")?.0;
        let path = path.rsplit_once("=> ").map_or(path, |(_, p)| p).trim();
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    ldd.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_writes() {
        let mut archive = Initramfs::new(Vec::new());
        archive.file("/a/b/init", 0o755, b"hello").unwrap();
        archive.directory("/a/b").unwrap();
        let bytes = archive.finish().unwrap();
        let (mut at, mut names) = (0, Vec::new());
        while at < bytes.len() {
            let field = |i: usize| {
                let hex = std::str::from_utf8(&bytes[at + 6 + 8 * i..at + 14 + 8 * i]).unwrap();
                usize::from_str_radix(hex, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, name) = (field(1), field(6), field(11));
            let text = std::str::from_utf8(&bytes[at + 110..at + 110 + name - 1]).unwrap();
            let data = (at + 110 + name).next_multiple_of(4);
            names.push((text.to_owned(), mode, bytes[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
        let expected: [(&str, usize, &[u8]); 4] = [
            ("a", 0o040_755, b""),
            ("a/b", 0o040_755, b""),
            ("a/b/init", 0o100_755, b"hello"),
            ("TRAILER!!!", 0, b""),
        ];
        let expected = expected.map(|(name, mode, data)| (name.to_owned(), mode, data.to_vec()));
        assert_eq!(names, expected);
    }

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = [PathBuf::from("/lib/libc.so.6"), "/lib64/ld-linux-x86-64.so.2".into()];
        assert_eq!(paths_of(text), paths);
        assert!(paths_of("\tnot a dynamic executable\n").is_empty());
    }
}
