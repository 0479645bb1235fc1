//! Services under names of their own, so that an agent's rule takes ours alone; and a Prometheus that scrapes it. Must
//! not know what an agent does with them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::go::{self, Mode};
use crate::kernel;
use crate::proc::{Line, Proc, Stream};

/// How long a service or a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A copy of a workload under a name that nobody else's has. The file goes with it.
pub struct Own {
    /// Where it is.
    pub binary: PathBuf,
    /// Its file's name, where that is text.
    pub name: String,
}

impl Own {
    /// Of this workload, with `what` in its name.
    pub fn new(workload: &str, version: &str, what: &str) -> Result<Self> {
        let name = format!("g2t{}-{what}", std::process::id());
        Self::named(workload, version, OsStr::new(&name))
    }

    /// Of this workload, under exactly this name.
    pub fn named(workload: &str, version: &str, name: &OsStr) -> Result<Self> {
        let binary = std::env::temp_dir().join(name);
        std::fs::copy(go::build(workload, version, Mode::Stripped)?, &binary)?;
        Ok(Self { binary, name: name.to_string_lossy().into_owned() })
    }

    /// A rule that takes it.
    pub fn rule(&self) -> String {
        format!("name={}", self.name)
    }

    /// How its series are labelled.
    pub fn labels(&self) -> String {
        format!("process_executable_name=\"{}\"", self.name)
    }

    /// One more process of it, that is up.
    pub fn start(&self, args: &[&str]) -> Result<Proc> {
        let mut proc = Proc::spawn(Command::new(&self.binary).args(args))?;
        proc.wait_line(listening, PATIENCE)?;
        Ok(proc)
    }
}

/// A workload's word that it is up.
pub fn listening(line: &Line) -> bool {
    line.stream == Stream::Out && line.text.starts_with("listening")
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.binary);
    }
}

/// A folder of a test's own, gone with it.
pub struct Folder(pub PathBuf);

impl Folder {
    /// An empty one.
    pub fn new(name: &str) -> Result<Self> {
        let path =
            crate::target_dir().join("scratch").join(format!("{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes of a process's text that are not those of its file: breakpoints.
pub fn changed_text(pid: u32) -> Result<usize> {
    let name = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let file = std::fs::read(format!("/proc/{pid}/exe"))?;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem"))?;
    let mut changed = 0;
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() < 6 || !words[1].contains('x') || *words[5] != *name.to_string_lossy() {
            continue;
        }
        let hex = |s: &str| u64::from_str_radix(s, 16);
        let (start, end) = words[0].split_once('-').context("a range")?;
        let (start, end, from) = (hex(start)?, hex(end)?, hex(words[2])? as usize);
        let mut there = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut there, start)?;
        let here = &file[from..(from + there.len()).min(file.len())];
        changed += here.iter().zip(&there).filter(|(a, b)| a != b).count();
    }
    Ok(changed)
}

/// What Prometheus's own tool says of something; `None` where it is not there.
pub fn promtool(args: &[&str], input: &[u8]) -> Result<Option<String>> {
    let Some(tool) = kernel::find("promtool") else { return Ok(None) };
    let mut child = Command::new(tool)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(input)?;
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "promtool {args:?}: {said}");
    Ok(Some(said.into_owned()))
}

/// The body of a page.
pub fn get(address: &str, path: &str, accept: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{head}");
    let body = answer.split_off(end + 4);
    Ok(if head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked") {
        unchunked(&body)?
    } else {
        body
    })
}

/// A body that came in chunks.
fn unchunked(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n").context("no length of a chunk")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end])?.trim(), 16)?;
        if length == 0 {
            return Ok(whole);
        }
        let chunk = body.get(end + 2..end + 2 + length).context("a chunk that is cut off")?;
        whole.extend_from_slice(chunk);
        body = body.get(end + 4 + length..).context("no end of a chunk")?;
    }
}

/// A running Prometheus.
pub struct Prometheus {
    proc: Proc,
    address: String,
}

impl Prometheus {
    /// Starts one that scrapes `target` every `every`, with its data and its configuration in `folder`.
    pub fn start(target: &str, every: Duration, folder: &Path) -> Result<Self> {
        let every = every.as_secs();
        let config = folder.join("prometheus.yml");
        std::fs::write(
            &config,
            format!(
                "global:\n  scrape_interval: {every}s\n  scrape_timeout: {every}s\nscrape_configs:\n  - job_name: g211s\n    \
                 static_configs:\n      - targets: ['{target}']\n"
            ),
        )?;
        // Free now, and nobody else's until then, most probably.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let mut command = kernel::tool("prometheus")?;
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.args(["--enable-feature=native-histograms", "--log.level=warn"]);
        Ok(Self { proc: Proc::spawn(&mut command)?, address })
    }

    /// What it answers to a query: labels and value of each series.
    pub fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let mut coded = String::new();
        for byte in query.bytes() {
            // Writing to a String does not fail.
            let _ = write!(coded, "%{byte:02X}");
        }
        let body = get(&self.address, &format!("/api/v1/query?query={coded}"), "*/*")?;
        let answer: Value = serde_json::from_slice(&body)?;
        let rows = answer["data"]["result"].as_array().with_context(|| answer.to_string())?;
        let row = |row: &Value| {
            let value = row["value"][1].as_str().context("no value")?.parse()?;
            Ok((row["metric"].clone(), value))
        };
        rows.iter().map(row).collect()
    }

    /// The value of the only series that it answers with.
    pub fn value(&self, query: &str) -> Result<f64> {
        let rows = self.query(query)?;
        ensure!(rows.len() == 1, "{query}: {rows:?}");
        Ok(rows[0].1)
    }

    /// What went wrong at the last scrape, if something did.
    pub fn last_error(&self) -> Result<String> {
        let body = get(&self.address, "/api/v1/targets", "*/*")?;
        let answer: Value = serde_json::from_slice(&body)?;
        let target = &answer["data"]["activeTargets"][0];
        let error = target["lastError"].as_str();
        Ok(error.with_context(|| answer.to_string())?.to_owned())
    }

    /// What it said.
    pub fn log(&self) -> String {
        self.proc.lines().iter().map(|l| l.text.clone() + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(
            unchunked(b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n").unwrap(),
            b"abc0123456789"
        );
        assert!(unchunked(b"5\r\nabc").is_err());
    }
}
