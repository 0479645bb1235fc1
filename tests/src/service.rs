//! Things to observe and things that get in their way: Go workloads, load on them, CPU hogs.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::go::{self, Mode};
use crate::proc::{Finished, Line, Proc, Stream, pin};

const PATIENCE: Duration = Duration::from_secs(20);

/// How to start a workload.
#[derive(Clone, Debug)]
pub struct Launch {
    name: String,
    version: String,
    mode: Mode,
    args: Vec<String>,
    env: Vec<(String, String)>,
    cpus: Vec<usize>,
    nice: i32,
}

impl Launch {
    /// The workload of this name, built with this version of Go, stripped.
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            mode: Mode::Stripped,
            args: Vec::new(),
            env: Vec::new(),
            cpus: Vec::new(),
            nice: 0,
        }
    }

    /// Linked like this instead.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// With these arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// On these CPUs only.
    #[must_use]
    pub fn cpus(mut self, cpus: &[usize]) -> Self {
        self.cpus = cpus.to_vec();
        self
    }

    /// With this nice level.
    #[must_use]
    pub fn nice(mut self, level: i32) -> Self {
        self.nice = level;
        self
    }

    /// Builds it where needed, starts it and waits until it is up.
    pub fn start(&self) -> Result<Service> {
        let binary = go::build(&self.name, &self.version, self.mode)?;
        let mut command = if self.nice == 0 {
            Command::new(&binary)
        } else {
            let mut nice = Command::new("nice");
            nice.args(["-n", &self.nice.to_string()]).arg(&binary);
            nice
        };
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        let mut proc = Proc::spawn(pin(&mut command, &self.cpus)?)?;
        let up = |l: &Line| l.stream == Stream::Out && l.text.starts_with("listening ");
        let line = proc.wait_line(up, PATIENCE)?;
        let address = line.text.trim_start_matches("listening ").to_owned();
        Ok(Service { proc, address, binary, version: self.version.clone() })
    }
}

/// A running workload.
pub struct Service {
    /// The process.
    pub proc: Proc,
    /// Where it listens.
    pub address: String,
    /// Its file.
    pub binary: PathBuf,
    /// The Go version it was built with.
    pub version: String,
}

impl Service {
    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }

    /// A URL of its.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks for `path` over a connection of its own; the body.
    pub fn get(&self, path: &str) -> Result<String> {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(&self.address).context("connecting")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        anyhow::ensure!(head.contains(" 200 "), "{path}: {head}");
        Ok(body.to_owned())
    }

    /// Writes a line to its standard input and waits for the line that starts with `answer`.
    pub fn ask(&mut self, text: &str, answer: &str) -> Result<String> {
        self.say(text)?;
        self.hear(answer)
    }

    /// Writes a line to its standard input.
    pub fn say(&mut self, text: &str) -> Result<()> {
        writeln!(self.proc.stdin()?, "{text}").context("writing to the service")
    }

    /// Waits for the line that starts with `answer`; the rest of it.
    pub fn hear(&mut self, answer: &str) -> Result<String> {
        let line = self.proc.wait_line(|l| l.text.starts_with(answer), PATIENCE)?;
        Ok(line.text.trim_start_matches(answer).trim().to_owned())
    }

    /// SIGTERM; what it wrote and how it ended.
    pub fn stop(self) -> Result<Finished> {
        self.proc.stop(Signal::SIGTERM, PATIENCE)
    }

    /// Starts load on `path` that lasts until it is stopped.
    pub fn load(&self, path: &str, connections: usize, qps: u32) -> Result<Load> {
        let binary = go::build("load", &self.version, Mode::Stripped)?;
        let mut command = Command::new(binary);
        command.args(["-d", "0", "-c", &connections.to_string(), "-qps", &qps.to_string()]);
        command.arg("-url").arg(self.url(path));
        Ok(Load(Proc::spawn(&mut command)?))
    }
}

/// Running load.
pub struct Load(Proc);

/// What load says at its end.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
    /// What the first failure was.
    pub first_error: String,
    /// Answered requests a second.
    pub rps: f64,
    /// Median latency, µs.
    pub p50_us: u64,
    /// 99th percentile, µs.
    pub p99_us: u64,
}

impl Load {
    /// Stops it.
    pub fn stop(self) -> Result<LoadResult> {
        let done = self.0.stop(Signal::SIGTERM, PATIENCE)?;
        let json: serde_json::Value = serde_json::from_str(&done.stdout())
            .with_context(|| format!("load's result: {}{}", done.stdout(), done.stderr()))?;
        let number = |key: &str| json[key].as_u64().unwrap_or(0);
        Ok(LoadResult {
            requests: number("requests"),
            errors: number("errors"),
            first_error: json["first_error"].as_str().unwrap_or_default().to_owned(),
            rps: json["rps"].as_f64().unwrap_or(0.0),
            p50_us: number("p50_us"),
            p99_us: number("p99_us"),
        })
    }
}

/// A process that does nothing but use a CPU.
pub struct Hog {
    /// The process.
    pub proc: Proc,
    /// Its name, as the kernel has it.
    pub comm: String,
}

impl Hog {
    /// Starts one on a CPU. It is a shell loop, called through a link of the hog's own name: the
    /// kernel names a process after the file it was started from.
    pub fn start(comm: &str, cpu: usize) -> Result<Self> {
        let folder = crate::target_dir().join("workloads");
        std::fs::create_dir_all(&folder)?;
        let link = folder.join(comm);
        if !link.exists() {
            let unfinished = folder.join(format!("{comm}.{}", std::process::id()));
            let _ = std::fs::remove_file(&unfinished);
            let shell = Path::new("/bin/sh").canonicalize().context("no /bin/sh")?;
            std::os::unix::fs::symlink(shell, &unfinished)?;
            std::fs::rename(&unfinished, &link)?;
        }
        let mut command = Command::new(&link);
        std::os::unix::process::CommandExt::arg0(&mut command, "sh");
        command.args(["-c", "while :; do :; done"]);
        let proc = Proc::spawn(pin(&mut command, &[cpu])?)?;
        Ok(Self { proc, comm: comm.to_owned() })
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.proc.pid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hog_has_its_name_and_its_cpu() {
        let cpu = crate::proc::cpus().unwrap()[0];
        let hog = Hog::start("hog-unit-test", cpu).unwrap();
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", hog.pid())).unwrap();
        assert_eq!(comm.trim(), "hog-unit-test");
        let status = std::fs::read_to_string(format!("/proc/{}/status", hog.pid())).unwrap();
        assert!(status.contains(&format!("Cpus_allowed_list:\t{cpu}\n")));
    }
}
