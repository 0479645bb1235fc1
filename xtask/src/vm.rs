//! Other kernels, in a virtual machine: boots a distribution's kernel with nothing but g211s, a Go
//! workload and a shell, runs a scenario, and takes back what it wrote. Works without KVM.
//!
//! The guest's console comes to our standard output, line by line. What a scenario leaves in the guest's
//! `/out` comes back over a second serial port, into `target/vm/KERNEL/out`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use g211s_tests::proc::Proc;
use g211s_tests::report::Report;
use g211s_tests::{go, kernel, target_dir};
use nix::sys::signal::Signal;

use crate::{setup, toolchain};

mod initramfs;
mod lab;
mod network;

use initramfs::Initramfs;

/// Kernels that can be had: Debian's for cloud machines, from its stable release and from later.
pub(crate) const KERNELS: [&str; 2] = ["6.1", "6.12"];

#[derive(Args)]
pub(crate) struct Options {
    /// Which kernel: 6.1 or 6.12; all of them if not given
    #[arg(long)]
    kernel: Vec<String>,
    /// What to run there
    #[arg(long, value_enum, default_value_t = Scenario::Attach)]
    scenario: Scenario,
    /// Of the laboratory: only this scenario of its own (may be given several times)
    #[arg(long, value_name = "NAME", value_parser = lab::SCENARIOS)]
    only: Vec<String>,
    /// Of the laboratory: how many trials of each of its scenarios
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    trials: u32,
    /// How long a scenario observes, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// CPUs of the machine
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// How long the machine may take in all, in seconds; if not given: as long as the scenario should
    #[arg(long)]
    timeout: Option<u64>,
    /// The g211s to run there, instead of one that is built first
    #[arg(long, env = "G211S_BIN")]
    binary: Option<PathBuf>,
    /// A file to put into the guest, with the libraries that it needs: HOST or HOST:GUEST (default:
    /// /bin/NAME)
    #[arg(long, value_name = "HOST[:GUEST]")]
    with: Vec<String>,
    /// A Go workload of `tests/workloads` to put into the guest's /bin
    #[arg(long)]
    workload: Vec<String>,
    /// Instead of a scenario: a command for the guest's shell. What it leaves in /out comes back
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Attach to a process that collects garbage all the time
    Attach,
    /// What this kernel lets g211s do
    Doctor,
    /// A server whose sockets become ready while all its threads are busy
    Net,
    /// Some of the fault laboratory: how much of all stops' time is unexplained
    Lab,
}

impl Scenario {
    /// Go programs that it needs in the guest.
    fn workloads(self) -> &'static [&'static str] {
        match self {
            Self::Attach => &["gcstorm"],
            Self::Doctor | Self::Lab => &[],
            Self::Net => &["netlate"],
        }
    }

    /// What the guest's shell runs.
    fn script(self, options: &Options) -> String {
        let seconds = options.seconds;
        match self {
            Self::Attach => format!(
                "gcstorm > /out/workload.txt 2>&1 & sleep 2; \
                 g211s attach --pid $! --duration {seconds}s --json \
                 > /out/report.json 2> /out/g211s.txt"
            ),
            Self::Doctor => {
                "g211s doctor --json > /out/doctor.json; rc=$?; g211s doctor; exit $rc".into()
            }
            Self::Net => format!(
                "netlate > /out/workload.txt 2>&1 & pid=$!; sleep 2; \
                 g211s attach --pid $pid --duration {seconds}s --json \
                 > /out/report.json 2> /out/g211s.txt; rc=$?; \
                 kill $pid; wait $pid; exit $rc"
            ),
            Self::Lab => lab::script(&lab::chosen(&options.only), options.trials, seconds),
        }
    }

    /// How long the machine may take in all.
    fn patience(self) -> Duration {
        Duration::from_secs(if self == Self::Lab { 1200 } else { 180 })
    }
}

/// Lines by which the guest tells us where it is.
const BOOTED: &str = "vm: booted ";
const ENDED: &str = "vm: ended ";

/// The guest's first process. The scenario's exit code is the last thing it says.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin HOME=/tmp
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tracefs none /sys/kernel/tracing
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /tmp
echo +cpu > /sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
stty -F /dev/ttyS1 raw -echo
dmesg -n 3
echo "vm: booted $(uname -r)"
sh /scenario < /dev/null
rc=$?
tar c -C /out . | gzip > /dev/ttyS1
printf '\nvm: ended %s\n' "$rc"
poweroff -f
"#;

pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen: Vec<&str> = match &options.kernel[..] {
        [] => KERNELS.to_vec(),
        given => given.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = chosen.iter().find(|k| !KERNELS.contains(k)) {
        bail!("no kernel {unknown}: there are {}", KERNELS.join(" and "));
    }
    // The laboratory's workload is built with several versions of Go.
    let lab = options.command.is_empty() && options.scenario == Scenario::Lab;
    setup::run(if lab { setup::Purpose::Test } else { setup::Purpose::Demo })?;
    setup::vm(&chosen)?;
    let binary = options.binary.clone().map_or_else(toolchain::build_binary, Ok)?;
    for version in chosen {
        let guest = Guest::new(version, options, &binary)?;
        guest.run(options).with_context(|| format!("kernel {version}"))?;
    }
    Ok(())
}

/// A kernel's image in `.toolchain`, if it is there.
pub(crate) fn image(version: &str) -> Option<PathBuf> {
    let boot = toolchain::folder().join("kernels").join(version).join("boot");
    let mut files = std::fs::read_dir(boot).ok()?.flatten();
    let image = files.find(|f| f.file_name().to_string_lossy().starts_with("vmlinuz-"))?;
    Some(image.path())
}

struct Guest {
    image: PathBuf,
    initramfs: PathBuf,
    /// Where what it brings back goes.
    folder: PathBuf,
}

impl Guest {
    fn new(version: &str, options: &Options, binary: &Path) -> Result<Self> {
        let folder = target_dir().join("vm").join(version);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("out"))?;
        let initramfs = folder.join("initramfs.cpio");
        let mut fs = Initramfs::create(&initramfs)?;
        for path in ["proc", "sys", "dev", "tmp", "out", "bin"] {
            fs.directory(path)?;
        }
        let busybox = kernel::find("busybox").context("busybox is missing")?;
        fs.host_file("bin/busybox", &busybox)?;
        fs.file("init", 0o755, INIT.as_bytes())?;
        fs.host_file("bin/g211s", binary)?;
        let mut workloads: Vec<&str> = options.workload.iter().map(String::as_str).collect();
        let script = if options.command.is_empty() {
            workloads.extend(options.scenario.workloads());
            if options.scenario == Scenario::Lab {
                lab::files(&mut fs)?;
            }
            options.scenario.script(options)
        } else {
            options.command.join(" ")
        };
        fs.file("scenario", 0o644, script.as_bytes())?;
        for name in workloads {
            let built = go::build(name, go::NEW, go::Mode::Stripped)?;
            fs.host_file(&format!("bin/{name}"), &built)?;
        }
        for given in &options.with {
            let (host, guest) = given.split_once(':').unwrap_or((given, ""));
            let host = Path::new(host);
            let name = host.file_name().unwrap_or_default().to_string_lossy();
            let default = format!("bin/{name}");
            fs.host_file(if guest.is_empty() { &default } else { guest }, host)?;
        }
        fs.finish()?;
        let image = image(version).context("the kernel is missing")?;
        Ok(Self { image, initramfs, folder })
    }

    fn run(&self, options: &Options) -> Result<()> {
        let results = self.folder.join("out.tar.gz");
        let mut qemu = Command::new(kernel::find("qemu-system-x86_64").context("no qemu")?);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-display", "none"]);
        qemu.args(["-m", if options.scenario == Scenario::Lab { "2G" } else { "1G" }]);
        qemu.args(["-no-reboot", "-nodefaults", "-monitor", "none"]);
        qemu.args(["-smp", &options.cpus.to_string(), "-serial", "stdio", "-serial"]);
        qemu.arg(format!("file:{}", results.display()));
        qemu.arg("-kernel").arg(&self.image).arg("-initrd").arg(&self.initramfs);
        qemu.args([
            "-append",
            "console=ttyS0 quiet no_timer_check panic=-1 oops=panic rdinit=/init",
        ]);
        println!("vm: booting {}", self.image.display());
        let began = Instant::now();
        let patience =
            options.timeout.map_or_else(|| options.scenario.patience(), Duration::from_secs);
        let code = watch(Proc::spawn(&mut qemu)?, patience)?;
        println!("vm: done after {:.1} s", began.elapsed().as_secs_f64());
        let out = self.folder.join("out");
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(&results).arg("-C").arg(&out);
        ensure!(toolchain::quietly(&mut tar), "what it wrote did not come back whole");
        println!("vm: what it wrote is in {}", out.display());
        if let Ok(text) = std::fs::read_to_string(out.join("report.json")) {
            let report = Report::parse(&text).context("its report")?;
            facts(&report)?;
            if options.command.is_empty() && options.scenario == Scenario::Net {
                let told = std::fs::read_to_string(out.join("workload.txt"))?;
                network::check(&report, &told)?;
            }
        }
        if options.command.is_empty() && options.scenario == Scenario::Lab {
            lab::check(&lab::chosen(&options.only), &out)?;
        }
        ensure!(code == 0, "the scenario ended with {code}");
        Ok(())
    }
}

/// Shows what the guest says until it is off; the scenario's exit code.
fn watch(mut qemu: Proc, patience: Duration) -> Result<i32> {
    let deadline = Instant::now() + patience;
    let mut shown = 0;
    let mut code = None;
    let mut booted = false;
    loop {
        let over = qemu.wait(Duration::from_millis(100))?.is_some();
        let lines = qemu.lines();
        for line in &lines[shown..] {
            let text = line.text.trim_end_matches('\r');
            booted |= text.starts_with(BOOTED);
            code = code.or_else(|| text.strip_prefix(ENDED)?.parse().ok());
            println!("  | {text}");
        }
        shown = lines.len();
        if over {
            ensure!(booted, "the machine did not boot");
            return code.context("the machine went down before its scenario had ended");
        }
        if Instant::now() >= deadline {
            // Dropped, it is killed.
            qemu.signal(Signal::SIGTERM)?;
            bail!("the machine is not done after {} s", patience.as_secs());
        }
    }
}

/// What a report says about the kernel that it was made on.
fn facts(report: &Report) -> Result<()> {
    let show = |name: &str, pointer: &str| match report.at(pointer) {
        Ok(value) => println!("vm: {name}: {value}"),
        Err(_) => println!("vm: {name}: not in the report"),
    };
    show("kernel", "/run/host/kernel");
    show("CPUs", "/run/host/cpus");
    let probes = report.at("/target/probes")?.as_array().map_or(0, Vec::len);
    println!("vm: probes: {probes}");
    for refused in report.at("/target/unavailable")?.as_array().into_iter().flatten() {
        println!("vm: refused: {}: {}", refused["feature"], refused["why"]);
    }
    show("GC cycles", "/gc/count");
    show("accuracy", "/accuracy/verdict");
    show("explained", "/stw_totals/explained_ns");
    show("unexplained", "/stw_totals/unexplained_ns");
    show("polls counted by", "/netpoll/source");
    show("network lateness by", "/netpoll/lateness_source");
    show("late harvests", "/netpoll/late_count");
    show("events lost", "/events/lost/total");
    ensure!(report.at("/accuracy/verdict")? != "disagree", "it disagrees with the Go runtime");
    Ok(())
}
