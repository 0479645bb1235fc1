//! Files that are whole or not there: written beside their place under another name, and renamed at the end. Must not
//! know what is in them.

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
        let mut other = name.to_os_string();
        other.push(format!(".{}.unfinished", std::process::id()));
        let unfinished = path.with_file_name(other);
        let file = File::create(&unfinished)
            .with_context(|| format!("cannot write {}", path.display()))?;
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
