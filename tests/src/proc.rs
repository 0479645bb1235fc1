//! Child processes that are killed and reaped when their guard goes out of scope: on success, on
//! failure, on panic; and by the kernel should we be killed ourselves.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// A line that a child wrote.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where to.
    pub stream: Stream,
    /// When it was read, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// The text, without its line end.
    pub text: String,
}

/// What a child wrote, and how it ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Every line, in order of reading.
    pub lines: Vec<Line>,
}

impl Finished {
    /// Exit code; 128 + the signal's number where a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// All lines of one stream.
    pub fn text(&self, stream: Stream) -> String {
        join(&self.lines, stream)
    }

    /// Standard output.
    pub fn stdout(&self) -> String {
        self.text(Stream::Out)
    }

    /// Standard error.
    pub fn stderr(&self) -> String {
        self.text(Stream::Err)
    }
}

fn join(lines: &[Line], stream: Stream) -> String {
    let mut text = String::new();
    for line in lines.iter().filter(|l| l.stream == stream) {
        text.push_str(&line.text);
        text.push('\n');
    }
    text
}

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<Line>>,
    grew: Condvar,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running child in its own process group.
pub struct Proc {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    stdin: Option<ChildStdin>,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Starts `command` with its output captured and its standard input ours to write.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::start(command)
    }

    /// Starts `command` with its output going where ours goes.
    pub fn spawn_visible(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
        Self::start(command)
    }

    fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0);
        // SAFETY: prctl(2) is async-signal-safe and touches only the new process.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let output = Arc::new(Output::default());
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(reader(Stream::Out, pipe, Arc::clone(&output)));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(reader(Stream::Err, pipe, Arc::clone(&output)));
        }
        let stdin = child.stdin.take();
        Ok(Self { name, child, output, readers, stdin, ended: None })
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, where it was captured.
    pub fn stdin(&mut self) -> Result<&mut ChildStdin> {
        self.stdin.as_mut().with_context(|| format!("{} has no input of ours", self.name))
    }

    /// What it wrote so far.
    pub fn lines(&self) -> Vec<Line> {
        self.output.lines().clone()
    }

    /// Waits for a line that `wanted` accepts (earlier lines count).
    pub fn wait_line(
        &mut self,
        wanted: impl Fn(&Line) -> bool,
        patience: Duration,
    ) -> Result<Line> {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.poll()?.is_some();
            if ended {
                self.join_readers();
            }
            let lines = self.output.lines();
            if let Some(line) = lines.iter().find(|l| wanted(l)) {
                return Ok(line.clone());
            }
            if ended || Instant::now() >= deadline {
                let why = if ended { "ended" } else { "said nothing of the kind in time" };
                bail!(
                    "{} {why}; it wrote:\n{}{}",
                    self.name,
                    join(&lines, Stream::Out),
                    join(&lines, Stream::Err)
                );
            }
            let pause = Duration::from_millis(50);
            drop(
                self.output.grew.wait_timeout(lines, pause).unwrap_or_else(PoisonError::into_inner),
            );
        }
    }

    /// Whether it has ended, without waiting.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended =
                self.child.try_wait().with_context(|| format!("waiting for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Waits for its end at most this long.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        while self.poll()?.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(self.ended)
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            bail!("{} has already ended", self.name);
        }
        // Not yet waited for, so the PID is still its own.
        nix::sys::signal::kill(Pid::from_raw(self.pid().cast_signed()), signal)
            .with_context(|| format!("signalling {}", self.name))
    }

    /// Waits for it to end by itself; fails (and kills it) when it takes longer than this.
    pub fn finish(mut self, patience: Duration) -> Result<Finished> {
        self.stdin = None;
        let Some(status) = self.wait(patience)? else {
            let lines = self.lines();
            bail!(
                "{} did not end within {patience:?}; it wrote:\n{}{}",
                self.name,
                join(&lines, Stream::Out),
                join(&lines, Stream::Err)
            );
        };
        self.kill_group();
        self.join_readers();
        Ok(Finished { status, lines: self.lines() })
    }

    /// Tells it to stop and waits for that.
    pub fn stop(mut self, signal: Signal, patience: Duration) -> Result<Finished> {
        if self.poll()?.is_none() {
            self.signal(signal)?;
        }
        self.finish(patience)
    }

    fn kill_group(&self) {
        // The group may outlive its leader (a shell's children); its id is not reused while it has
        // members, and an empty group is ESRCH.
        let _ = killpg(Pid::from_raw(self.pid().cast_signed()), Signal::SIGKILL);
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.stdin = None;
        if self.ended.is_none() {
            // Before the leader is reaped, so that the group's id is certainly ours.
            self.kill_group();
            let _ = self.child.wait();
        }
        self.join_readers();
    }
}

fn reader(stream: Stream, pipe: impl Read + Send + 'static, output: Arc<Output>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while let Ok(n) = pipe.read_until(b'\n', &mut bytes) {
            if n == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned();
            output.lines().push(Line { stream, at_ns: now_ns(), text });
            output.grew.notify_all();
            bytes.clear();
        }
    })
}

/// `CLOCK_MONOTONIC` now, ns: the clock of Go's runtime and of BPF.
pub fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// CPUs that this process may use.
pub fn cpus() -> Result<Vec<usize>> {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Makes the child of `command` run on these CPUs only (none: wherever).
pub fn pin<'a>(command: &'a mut Command, cpus: &[usize]) -> Result<&'a mut Command> {
    if cpus.is_empty() {
        return Ok(command);
    }
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).with_context(|| format!("CPU {cpu}"))?;
    }
    // SAFETY: one system call, on the new process, with a set made before the fork.
    unsafe {
        command.pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &set)?));
    }
    Ok(command)
}

/// Runs a short command to its end; its standard output if it succeeded.
pub fn output_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !out.status.success() {
        bail!("{name}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn a_dropped_child_is_gone_with_its_children() {
        let mut shell =
            Proc::spawn(Command::new("sh").args(["-c", "sleep 1000 & echo $!; wait"])).unwrap();
        let line = shell.wait_line(|_| true, Duration::from_secs(5)).unwrap();
        let (parent, child) = (shell.pid(), line.text.parse::<u32>().unwrap());
        assert!(alive(parent) && alive(child));
        drop(shell);
        assert!(!alive(parent));
        let deadline = Instant::now() + Duration::from_secs(5);
        // The grandchild is reaped by init, or stays a zombie where nobody reaps.
        let dead = || {
            std::fs::read_to_string(format!("/proc/{child}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        };
        while !dead() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(dead());
    }

    #[test]
    fn output_and_status_are_kept() {
        let shell =
            Proc::spawn(Command::new("sh").args(["-c", "echo a; echo b >&2; exit 3"])).unwrap();
        let done = shell.finish(Duration::from_secs(5)).unwrap();
        assert_eq!(
            (done.code(), done.stdout().as_str(), done.stderr().as_str()),
            (3, "a\n", "b\n")
        );
    }

    #[test]
    fn a_line_that_never_comes_is_an_error_with_the_output() {
        let mut shell =
            Proc::spawn(Command::new("sh").args(["-c", "echo something else"])).unwrap();
        let error = shell.wait_line(|l| l.text == "this", Duration::from_secs(5)).unwrap_err();
        assert!(error.to_string().contains("something else"));
    }
}
