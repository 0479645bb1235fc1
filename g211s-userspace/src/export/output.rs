//! Files that are whole or not there: written beside their place under another name, and renamed at the end. Must not
//! know what is in them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};

/// Stands for standard output.
const STDOUT: &str = "-";

/// Whether a path means standard output.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == STDOUT
}

enum Sink {
    File(BufWriter<File>),
    Stdout(BufWriter<io::Stdout>),
}

/// A file being written. Dropped without [`Output::finish`] it leaves nothing behind.
pub(super) struct Output {
    path: PathBuf,
    unfinished: Option<PathBuf>,
    sink: Sink,
    /// Bytes written, shared with who tells of progress.
    written: Arc<AtomicU64>,
}

impl Output {
    /// Begins a file, or standard output.
    ///
    /// # Errors
    /// It cannot be created; or it is not text and standard output is a terminal.
    pub(super) fn create(path: &Path, is_text: bool, written: &Arc<AtomicU64>) -> Result<Self> {
        let written = Arc::clone(written);
        if is_stdout(path) {
            let stdout = io::stdout();
            if !is_text && stdout.is_terminal() {
                bail!("this is no text and standard output is a terminal: give a file, or a pipe");
            }
            let sink = Sink::Stdout(BufWriter::with_capacity(BUFFER, stdout));
            return Ok(Self { path: path.to_owned(), unfinished: None, sink, written });
        }
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        if path.is_dir() {
            bail!("cannot write {}: it is a folder", path.display());
        }
        // A pipe or a device (`/dev/stdout`) is written to; what has its name then must stay what it is.
        if path.metadata().is_ok_and(|m| !m.is_file()) {
            let file = File::options().write(true).open(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            let sink = Sink::File(BufWriter::with_capacity(BUFFER, file));
            return Ok(Self { path: path.to_owned(), unfinished: None, sink, written });
        }
        let (file, unfinished) =
            beside(path, name).with_context(|| format!("cannot write {}", path.display()))?;
        let sink = Sink::File(BufWriter::with_capacity(BUFFER, file));
        Ok(Self { path: path.to_owned(), unfinished: Some(unfinished), sink, written })
    }

    /// Ends it: from now on it is there.
    ///
    /// # Errors
    /// It could not be written to its end, or not renamed.
    pub(super) fn finish(mut self) -> Result<()> {
        let done = match &mut self.sink {
            Sink::File(file) => file.flush(),
            Sink::Stdout(out) => out.flush(),
        };
        done.map_err(|e| self.error(e))?;
        if let Some(unfinished) = &self.unfinished {
            std::fs::rename(unfinished, &self.path)
                .with_context(|| format!("cannot write {}", self.path.display()))?;
            self.unfinished = None;
        }
        Ok(())
    }

    /// An error of writing, with its place. A closed pipe stays what it is: it is no failure.
    pub(super) fn error(&self, e: io::Error) -> anyhow::Error {
        if e.kind() == io::ErrorKind::BrokenPipe {
            return e.into();
        }
        let path = if is_stdout(&self.path) {
            "standard output".into()
        } else {
            self.path.display().to_string()
        };
        anyhow::Error::new(e).context(format!("cannot write {path}"))
    }
}

/// Writes a file as a whole.
///
/// # Errors
/// It could not be written; what was there before is there still.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    if is_stdout(path) {
        bail!("cannot write this to standard output, which has the report: give a file");
    }
    let mut out = Output::create(path, true, &Arc::default())?;
    out.write_all(content).map_err(|e| out.error(e))?;
    out.finish()
}

/// A new file beside `path`. It must be new: in a folder that others may write to, what is there already may be a link to
/// somewhere else.
fn beside(path: &Path, name: &OsStr) -> io::Result<(File, PathBuf)> {
    const TRIES: u32 = 16;
    let mut n = 0;
    loop {
        let mut other = name.to_os_string();
        other.push(format!(".{}-{n}.unfinished", std::process::id()));
        let unfinished = path.with_file_name(other);
        match File::create_new(&unfinished) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && n < TRIES => n += 1,
            file => return Ok((file?, unfinished)),
        }
    }
}

const BUFFER: usize = 256 << 10;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = match &mut self.sink {
            Sink::File(file) => file.write(bytes)?,
            Sink::Stdout(out) => out.write(bytes)?,
        };
        self.written.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::File(file) => file.flush(),
            Sink::Stdout(out) => out.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(unfinished) = &self.unfinished {
            let _ = std::fs::remove_file(unfinished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_as_it_was_and_a_pipe_stays_one() {
        let folder = std::env::temp_dir().join(format!("g211s-whole-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("a");
        write_whole(&file, b"first").expect("writable");
        write_whole(&file, b"second").expect("writable");
        assert_eq!(std::fs::read(&file).expect("there"), b"second");
        assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 1, "nothing beside it");
        let other = folder.join("other");
        let unfinished = format!("a.{}-0.unfinished", std::process::id());
        std::os::unix::fs::symlink(&other, folder.join(unfinished)).expect("a link");
        write_whole(&file, b"third").expect("writable");
        assert!(!other.exists(), "a link that somebody laid is not followed");
        assert_eq!(std::fs::read(&file).expect("there"), b"third");
        assert!(write_whole(&folder, b"x").is_err(), "a folder");
        assert!(write_whole(&folder.join("none/a"), b"x").is_err());
        assert!(write_whole(Path::new("-"), b"x").is_err());
        let device = Path::new("/dev/null");
        write_whole(device, b"x").expect("writable");
        assert!(!device.metadata().expect("there").is_file());
        std::fs::remove_dir_all(&folder).expect("ours");
    }
}
