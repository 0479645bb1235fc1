//! What the agent is told: defaults, a TOML file over them, flags and environment variables over that. Must not know
//! what is done with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use g211s_ebpf::config::MAX_TARGETS;
use serde::{Deserialize, Deserializer};

use super::select::{Rule, Selection};
use crate::cli::{AgentArgs, duration, share, size};

/// Largest configuration file.
const MAX_FILE: u64 = 1 << 20;

/// What tells the series of one service from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// The executable's file name: `process_executable_name`.
    Executable,
    /// The main module's path: `go_module_path`.
    Module,
    /// The Go version: `process_runtime_version`.
    GoVersion,
    /// The container's id: `container_id`.
    Container,
    /// The cgroup's path: `cgroup`.
    Cgroup,
    /// The PID: `process_pid`. Each process has series of its own then.
    Pid,
}

/// How metrics are pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// Where to, e.g. `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// How often.
    pub interval: Duration,
    /// Whether stops and long delays are pushed too, as log records.
    pub logs: bool,
    /// Further HTTP headers.
    pub headers: Vec<(String, String)>,
}

/// When and where recordings of incidents are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Folder.
    pub dir: PathBuf,
    /// A stop of the world of at least this is an incident.
    pub pause: Duration,
    /// A wait for a CPU of at least this is one.
    pub delay: Duration,
    /// How much of the time before it is kept.
    pub seconds: Duration,
    /// How much after.
    pub after: Duration,
    /// Least time between two.
    pub every: Duration,
    /// Most bytes in the folder: the oldest go first.
    pub disk: u64,
    /// Most bytes kept in memory.
    pub memory: u64,
}

/// All of it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where metrics are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Delays of at least this are looked at one by one.
    pub threshold: Duration,
    /// Targets at a time.
    pub max_targets: u32,
    /// What observing may cost, of one CPU's time: g211s's own and its probes'.
    pub budget_ppm: u32,
    /// How often all processes are looked at.
    pub scan: Duration,
    /// How often the runtimes' own counters and the kernel's histograms are read.
    pub sample: Duration,
    /// Who is watched.
    pub selection: Selection,
    /// What tells services apart.
    pub labels: Vec<Label>,
    /// Culprits that are named for a service; the others are `other`.
    pub culprits: usize,
    /// Size of the ring buffer, bytes.
    pub ring: u32,
    /// Pushing.
    pub otlp: Option<Otlp>,
    /// Recording incidents.
    pub capture: Option<Capture>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9211))),
            threshold: Duration::from_millis(1),
            max_targets: 32,
            budget_ppm: 50_000,
            scan: Duration::from_secs(30),
            sample: Duration::from_secs(10),
            selection: Selection::default(),
            labels: vec![Label::Executable, Label::Module],
            culprits: 10,
            ring: 4 << 20,
            otlp: None,
            capture: None,
        }
    }
}

/// A duration, size or share in a file: as on the command line.
fn parsed<'de, D: Deserializer<'de>, T>(
    d: D,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(d)?;
    parse(&text).map(Some).map_err(serde::de::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
    parsed(d, duration)
}

fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    parsed(d, size)
}

fn part<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    parsed(d, share)
}

/// The file, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<String>,
    #[serde(deserialize_with = "time")]
    threshold: Option<Duration>,
    max_targets: Option<u32>,
    #[serde(deserialize_with = "part")]
    budget: Option<f64>,
    #[serde(deserialize_with = "time")]
    scan: Option<Duration>,
    #[serde(deserialize_with = "time")]
    sample: Option<Duration>,
    include: Vec<Rule>,
    exclude: Vec<Rule>,
    labels: Option<Vec<Label>>,
    culprits: Option<usize>,
    #[serde(deserialize_with = "bytes")]
    ring: Option<u64>,
    otlp: Option<OtlpFile>,
    capture: Option<CaptureFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct OtlpFile {
    endpoint: Option<String>,
    #[serde(deserialize_with = "time")]
    interval: Option<Duration>,
    logs: Option<bool>,
    headers: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CaptureFile {
    dir: Option<PathBuf>,
    #[serde(deserialize_with = "time")]
    pause: Option<Duration>,
    #[serde(deserialize_with = "time")]
    delay: Option<Duration>,
    #[serde(deserialize_with = "time")]
    seconds: Option<Duration>,
    #[serde(deserialize_with = "time")]
    after: Option<Duration>,
    #[serde(deserialize_with = "time")]
    every: Option<Duration>,
    #[serde(deserialize_with = "bytes")]
    disk: Option<u64>,
    #[serde(deserialize_with = "bytes")]
    memory: Option<u64>,
}

impl Config {
    /// What flags, environment, the file and the defaults make together.
    ///
    /// # Errors
    /// A file that cannot be read or understood, a value out of its range.
    pub fn load(args: &AgentArgs) -> Result<Self> {
        let file = match &args.config {
            Some(path) => {
                let text = read(path).with_context(|| format!("reading {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("in {}", path.display()))?
            }
            None => File::default(),
        };
        let mut config = Self::default();
        config.take_file(file)?;
        config.take_args(args)?;
        config.check()?;
        Ok(config)
    }

    fn take_file(&mut self, file: File) -> Result<()> {
        if let Some(text) = &file.listen {
            self.listen = address(text)?;
        }
        set(&mut self.threshold, file.threshold);
        set(&mut self.max_targets, file.max_targets);
        set(&mut self.budget_ppm, file.budget.map(ppm));
        set(&mut self.scan, file.scan);
        set(&mut self.sample, file.sample);
        set(&mut self.labels, file.labels);
        set(&mut self.culprits, file.culprits);
        if let Some(bytes) = file.ring {
            self.ring = u32::try_from(bytes).context("`ring` is too large")?;
        }
        self.selection = Selection { include: file.include, exclude: file.exclude };
        if let Some(f) = file.otlp {
            let endpoint = f.endpoint.context("[otlp] needs an `endpoint`")?;
            let mut otlp = Otlp::to(endpoint);
            set(&mut otlp.interval, f.interval);
            set(&mut otlp.logs, f.logs);
            otlp.headers = f.headers.into_iter().collect();
            self.otlp = Some(otlp);
        }
        if let Some(f) = file.capture {
            let mut capture = Capture::into(f.dir.context("[capture] needs a `dir`")?);
            set(&mut capture.pause, f.pause);
            set(&mut capture.delay, f.delay);
            set(&mut capture.seconds, f.seconds);
            set(&mut capture.after, f.after);
            set(&mut capture.every, f.every);
            set(&mut capture.disk, f.disk);
            set(&mut capture.memory, f.memory);
            self.capture = Some(capture);
        }
        Ok(())
    }

    fn take_args(&mut self, args: &AgentArgs) -> Result<()> {
        if let Some(text) = &args.listen {
            self.listen = address(text)?;
        }
        set(&mut self.threshold, args.threshold);
        set(&mut self.max_targets, args.max_targets);
        set(&mut self.budget_ppm, args.budget.map(ppm));
        set(&mut self.scan, args.scan);
        set(&mut self.sample, args.sample);
        if !args.labels.is_empty() {
            self.labels.clone_from(&args.labels);
        }
        if !args.include.is_empty() {
            self.selection.include.clone_from(&args.include);
        }
        if !args.exclude.is_empty() {
            self.selection.exclude.clone_from(&args.exclude);
        }
        if let Some(endpoint) = &args.otlp {
            match &mut self.otlp {
                Some(otlp) => otlp.endpoint.clone_from(endpoint),
                none => *none = Some(Otlp::to(endpoint.clone())),
            }
        }
        if let Some(dir) = &args.capture {
            match &mut self.capture {
                Some(capture) => capture.dir.clone_from(dir),
                none => *none = Some(Capture::into(dir.clone())),
            }
        }
        if let Some(capture) = &mut self.capture {
            set(&mut capture.pause, args.capture_pause);
            set(&mut capture.delay, args.capture_delay);
        } else if args.capture_pause.is_some() || args.capture_delay.is_some() {
            bail!("--capture-pause and --capture-delay need --capture, or [capture] in the file");
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        if !(1..=MAX_TARGETS).contains(&self.max_targets) {
            bail!("max_targets is {}: it is from 1 to {MAX_TARGETS}", self.max_targets);
        }
        let within = |name: &str, d: Duration, low: u64, high: u64| {
            if (low..=high).contains(&(d.as_millis() as u64)) {
                return Ok(());
            }
            bail!("{name} is {d:?}: it is from {low} ms to {high} ms")
        };
        within("scan", self.scan, 1_000, 3_600_000)?;
        within("sample", self.sample, 1_000, 600_000)?;
        if !self.ring.is_power_of_two() || !(1 << 16..=1 << 28).contains(&self.ring) {
            bail!("ring is {}: it is a power of two from 64K to 256M", self.ring);
        }
        if self.culprits > 100 {
            bail!("culprits is {}: it is at most 100", self.culprits);
        }
        self.labels.sort_unstable();
        self.labels.dedup();
        if let Some(otlp) = &self.otlp {
            within("otlp.interval", otlp.interval, 1_000, 3_600_000)?;
            if !otlp.endpoint.starts_with("http://") {
                bail!(
                    "otlp.endpoint is `{}`: it is an http:// address of a collector on this machine or network",
                    otlp.endpoint
                );
            }
        }
        if let Some(c) = &self.capture {
            within("capture.seconds", c.seconds, 1_000, 600_000)?;
            within("capture.after", c.after, 1_000, 60_000)?;
            within("capture.every", c.every, 1_000, 86_400_000)?;
            if c.memory < 1 << 20 || c.disk < 1 << 20 {
                bail!("capture.memory and capture.disk are at least 1M");
            }
        }
        Ok(())
    }

    /// What a running agent cannot change to: these take a restart.
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        let mut all = Vec::new();
        let mut differs = |name, is: bool| all.extend(is.then_some(name));
        differs("listen", self.listen != new.listen);
        differs("threshold", self.threshold != new.threshold);
        differs("max_targets", self.max_targets < new.max_targets);
        differs("ring", self.ring != new.ring);
        differs("labels", self.labels != new.labels);
        all
    }
}

impl Otlp {
    fn to(endpoint: String) -> Self {
        Self { endpoint, interval: Duration::from_secs(15), logs: true, headers: Vec::new() }
    }
}

impl Capture {
    fn into(dir: PathBuf) -> Self {
        Self {
            dir,
            pause: Duration::from_millis(20),
            delay: Duration::from_millis(100),
            seconds: Duration::from_secs(30),
            after: Duration::from_secs(2),
            every: Duration::from_mins(1),
            disk: 256 << 20,
            memory: 8 << 20,
        }
    }
}

fn set<T>(value: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *value = new;
    }
}

fn ppm(share: f64) -> u32 {
    (share * 1e6).round() as u32
}

fn address(text: &str) -> Result<Option<SocketAddr>> {
    if matches!(text, "" | "off" | "none") {
        return Ok(None);
    }
    let wrong =
        || format!("`{text}` is no address to listen at: as in 127.0.0.1:9211, [::1]:9211, off");
    text.parse().map(Some).with_context(wrong)
}

fn read(path: &Path) -> Result<String> {
    use std::io::Read as _;

    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        bail!("larger than {MAX_FILE} bytes");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &str) -> AgentArgs {
        let words = ["g211s", "agent"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect(line).command {
            Command::Agent(args) => args,
            _ => panic!("{line}"),
        }
    }

    fn file(text: &str) -> (tempfile, PathBuf) {
        let path = std::env::temp_dir().join(format!(
            "g211s-config-{}-{:x}.toml",
            std::process::id(),
            text.len()
        ));
        std::fs::write(&path, text).expect("writes");
        (tempfile(path.clone()), path)
    }

    #[expect(non_camel_case_types, reason = "a guard")]
    struct tempfile(PathBuf);

    impl Drop for tempfile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn flags_are_over_the_file_and_that_over_the_defaults() {
        let (_guard, path) = file(
            "listen = \"off\"\nthreshold = \"2ms\"\nmax_targets = 7\nbudget = \"2%\"\n\
             include = [\"name=api*\"]\nlabels = [\"pid\", \"executable\", \"pid\"]\n\
             [capture]\ndir = \"/x\"\npause = \"5ms\"\n[otlp]\nendpoint = \"http://h:4318\"\n",
        );
        let config = Config::load(&args(&format!(
            "--config {} --max-targets 9 --capture-pause 7ms",
            path.display()
        )))
        .expect("loads");
        assert_eq!((config.listen, config.max_targets, config.budget_ppm), (None, 9, 20_000));
        assert_eq!(config.threshold, Duration::from_millis(2));
        assert_eq!(config.labels, [Label::Executable, Label::Pid]);
        assert_eq!(config.selection.include, ["name=api*".parse().unwrap()]);
        let capture = config.capture.expect("there");
        assert_eq!((capture.pause, capture.dir), (Duration::from_millis(7), "/x".into()));
        assert!(config.otlp.is_some_and(|o| o.logs));
        assert_eq!(Config::load(&args("")).expect("loads"), Config::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        for (text, names) in [
            ("max_targets = 0", "max_targets"),
            ("max_targets = 65", "max_targets"),
            ("scan = \"1ms\"", "scan"),
            ("colour = \"red\"", "colour"),
            ("threshold = \"7\"", "threshold"),
            ("include = [\"x=y\"]", "nothing a rule looks at"),
            ("[capture]\npause = \"1ms\"", "dir"),
            ("[otlp]\nendpoint = \"grpc://x\"", "otlp.endpoint"),
            ("listen = \"here\"", "here"),
            ("ring = \"5000\"", "ring"),
        ] {
            let (_guard, path) = file(text);
            let e = Config::load(&args(&format!("--config {}", path.display()))).expect_err(text);
            assert!(format!("{e:#}").contains(names), "{text}: {e:#}");
        }
        assert!(Config::load(&args("--capture-pause 7ms")).is_err());
    }

    #[test]
    fn some_changes_take_a_restart() {
        let old = Config::default();
        let new = Config { max_targets: 64, culprits: 3, listen: None, ..Config::default() };
        assert_eq!(old.fixed_differences(&new), ["listen", "max_targets"]);
    }
}
