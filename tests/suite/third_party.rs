//! Go services that nobody here built: Debian's prometheus, etcd, caddy and syncthing, unpacked from
//! their packages, run with a little load. Only with `--all`: the packages are 45 MB.
//!
//! Debian 13's, since Debian 12 built them with Go 1.19. Those that are gone from the mirror (a point
//! release replaces them) are told and left out, but half of them must be there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::{self, Attach};
use g211s_tests::proc::{Proc, output_of};
use g211s_tests::{kernel, needs_kernel, run_all};
use serde_json::Value;

/// A service: its package, how it is started and where it serves.
struct Service {
    name: &'static str,
    package: &'static str,
    sha256: &'static str,
    binary: &'static str,
    /// `{dir}` is an empty folder of its own.
    args: &'static [&'static str],
    url: &'static str,
    /// A package path that a goroutine of it was created in.
    creates: &'static str,
}

const SERVICES: [Service; 4] = [
    Service {
        name: "prometheus",
        package: "p/prometheus/prometheus_2.53.3+ds1-2_amd64.deb",
        sha256: "58c3e6a86c56cb3bfd71032fa48d65945d526441a212f5815dfe5ed9cb787ecc",
        binary: "usr/bin/prometheus",
        args: &[
            "--config.file=/dev/null",
            "--storage.tsdb.path={dir}",
            "--web.listen-address=127.0.0.1:42190",
        ],
        url: "http://127.0.0.1:42190/metrics",
        creates: "github.com/prometheus/prometheus/",
    },
    Service {
        name: "etcd",
        package: "e/etcd/etcd-server_3.5.16-4_amd64.deb",
        sha256: "0875921bb0d023f2af9b8e15cdfbe417a03e65731345fb832c40f9c2dd72967b",
        binary: "usr/bin/etcd",
        args: &[
            "--data-dir={dir}",
            "--listen-client-urls=http://127.0.0.1:42379",
            "--advertise-client-urls=http://127.0.0.1:42379",
            "--listen-peer-urls=http://127.0.0.1:42380",
        ],
        url: "http://127.0.0.1:42379/version",
        creates: "go.etcd.io/etcd/",
    },
    Service {
        name: "caddy",
        package: "c/caddy/caddy_2.6.2-12+deb13u1_amd64.deb",
        sha256: "f173515859f273c97219cc242d625a64650fefdd136a9570acb1b5f7581c9786",
        binary: "usr/bin/caddy",
        args: &["file-server", "--listen=127.0.0.1:42080", "--root=/usr/share/doc"],
        url: "http://127.0.0.1:42080/",
        creates: "github.com/caddyserver/caddy/",
    },
    Service {
        name: "syncthing",
        package: "s/syncthing/syncthing_1.29.5~ds1-2_amd64.deb",
        sha256: "fab3719b0233f530540859221a7ee969f07846e5ab509f2ea6daea5dd1cf4309",
        binary: "usr/bin/syncthing",
        args: &[
            "serve",
            "--home={dir}",
            "--no-browser",
            "--no-restart",
            "--no-upgrade",
            "--gui-address=127.0.0.1:42384",
        ],
        url: "http://127.0.0.1:42384/",
        creates: "github.com/syncthing/syncthing/",
    },
];

impl Service {
    /// The package's files, fetched and unpacked unless they are there.
    fn unpacked(&self) -> Result<PathBuf> {
        let place = g211s_tests::target_dir().join("third-party").join(&self.sha256[..16]);
        let binary = place.join(self.binary);
        if binary.exists() {
            return Ok(binary);
        }
        std::fs::create_dir_all(&place)?;
        let deb = place.join("package.deb");
        let url = format!("http://deb.debian.org/debian/pool/main/{}", self.package);
        let mut curl = kernel::tool("curl")?;
        output_of(curl.args(["-sSf", "-m", "180", "-o"]).arg(&deb).arg(&url))?;
        let sum = output_of(Command::new("sha256sum").arg(&deb))?;
        ensure!(sum.starts_with(self.sha256), "{url} is another file: {sum}");
        output_of(Command::new("dpkg").arg("-x").arg(&deb).arg(&place))?;
        Ok(binary)
    }

    fn start(&self, binary: &Path) -> Result<Proc> {
        let dir = g211s_tests::target_dir().join("third-party").join(format!("data-{}", self.name));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let mut command = Command::new(binary);
        command.args(self.args.iter().map(|a| a.replace("{dir}", &dir.to_string_lossy())));
        // Nothing from or to the user's own folders.
        command.current_dir(&dir);
        for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
            command.env(variable, &dir);
        }
        // Else syncthing's work is done by a child of the process that we start.
        command.env("STMONITORED", "yes");
        Proc::spawn(&mut command)
    }
}

fn json_of(args: &[&str]) -> Result<Value> {
    let done = agent::run(args)?;
    ensure!(done.code() == 0, "{args:?}: {} {}", done.code(), done.stderr());
    Ok(serde_json::from_str(&done.stdout())?)
}

fn check(service: &Service, binary: &Path) -> Result<()> {
    let running = service.start(binary)?;
    let pid = running.pid().to_string();
    std::thread::sleep(Duration::from_secs(5));
    let mut wrk = kernel::tool("wrk")?;
    let load = Proc::spawn(wrk.args(["-t1", "-c4", "-d60s", service.url]))?;

    let report = Attach::new(running.pid(), Duration::from_secs(10)).start()?.finish()?;
    ensure!(report.code() == 0, "attach: {}", report.stderr());
    let report: Value = serde_json::from_str(&report.stdout())?;
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
    let cycles = number("/gc/count").context("gc.count")?;
    let accuracy = &report["accuracy"];
    println!(
        "{}: {}, {:?}: {cycles} GC cycles, {} stops, accuracy {} (numgc {}), {} goroutines",
        service.name,
        report["target"]["go_version"],
        report["target"]["link_mode"]
            .as_array()
            .map(|a| a.iter().filter_map(Value::as_str).collect::<Vec<_>>()),
        report["stw"].as_array().map_or(0, Vec::len),
        accuracy["verdict"],
        accuracy["gc_cycles"]["runtime"],
        report["runtime"]["goroutines"]["end"],
    );
    ensure!(accuracy["verdict"] == "agree", "{accuracy}");
    ensure!(accuracy["gc_cycles"]["ours"] == accuracy["gc_cycles"]["runtime"], "{accuracy}");
    ensure!(number("/runqueue/wakeup/count").is_some_and(|n| n > 100), "{}", report["runqueue"]);
    ensure!(number("/events/lost/total") == Some(0), "{}", report["events"]["lost"]);

    let census = json_of(&["goroutines", "--json", "--pid", &pid])?;
    let groups = census["groups"].as_array().context("groups")?;
    let ours = groups.iter().any(|g| g.to_string().contains(service.creates));
    ensure!(ours, "no goroutine was created in {}: {census}", service.creates);

    let ps = json_of(&["ps", "--json"])?;
    let listed = ps["processes"].as_array().context("processes")?;
    let this = listed.iter().find(|p| p["pid"] == running.pid()).context("not listed")?;
    for can in ["attach", "goroutines", "runtime", "heap"] {
        ensure!(this["can"][can]["ok"] == true, "{this}");
    }
    ensure!(this["goroutines"]["value"].as_u64().is_some_and(|n| n > 1), "{this}");

    let heap = json_of(&["heap", "--json", "--pid", &pid])?;
    let sampled = heap["total"]["alloc_samples"].as_u64().context("samples")?;
    ensure!(sampled > 0 && heap["reads"]["torn"] == 0, "{}", heap["total"]);

    let doctor = agent::run(&["doctor", "--json", "--pid", &pid])?;
    ensure!(doctor.code() == 0, "doctor: {}", doctor.stderr());
    drop(load);
    Ok(())
}

#[test]
fn services_of_debian() -> Result<()> {
    needs_kernel!("wrk", "curl");
    if !run_all() {
        // Left out, not impossible: never a failure.
        println!("skipped: fetches 45 MB; cargo xtask test --all");
        return Ok(());
    }
    let (mut checked, mut failed) = (0, Vec::new());
    for service in &SERVICES {
        match service.unpacked() {
            Err(why) => println!("{} is left out: {why:#}", service.name),
            Ok(binary) => {
                checked += 1;
                if let Err(why) = check(service, &binary) {
                    failed.push(format!("{}: {why:#}", service.name));
                }
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    ensure!(checked * 2 >= SERVICES.len(), "only {checked} packages could be had");
    Ok(())
}
