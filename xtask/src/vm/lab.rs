//! The fault laboratory in a guest: how much of all stops' time g211s leaves unexplained on that kernel, and whether
//! it knows a CPU quota. Must not know how causes are made, nor how verdicts are judged.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use g211s_tests::go::{self, Mode};
use g211s_tests::kernel;
use g211s_tests::lab::target::VERSIONS;
use serde_json::Value;

use super::initramfs::Initramfs;

/// Those that need neither perf nor a module of the kernel's (FUSE is one).
pub(super) const SCENARIOS: [&str; 5] =
    ["cpu-hog", "cfs-quota", "non-preemptible", "sigstop", "assist"];
/// At most this share of all stops' time may be unexplained.
const UNEXPLAINED: f64 = 0.02;
/// Less than this says nothing about a share, ns.
const LEAST_NS: u64 = 1_000_000_000;
/// Whose verdicts are checked as well: the truth is the kernel's account of the cgroup, which a slow machine does
/// not blur, and what g211s reads of it differs by kernel.
const JUDGED: &str = "cfs-quota";
/// At least this share of its affected pauses must be named rightly.
const RIGHT: f64 = 0.95;

/// What the guest needs: the laboratory, and its workload in each Go version.
pub(super) fn files<W: std::io::Write>(fs: &mut Initramfs<W>) -> Result<()> {
    fs.host_file("bin/xtask", &std::env::current_exe()?)?;
    // Debian's busybox has none.
    fs.host_file("bin/nice", &kernel::find("nice").context("nice is missing")?)?;
    for version in VERSIONS {
        let built = go::build("lab", version, Mode::Stripped)?;
        let place = Path::new("workloads").join(go::place_of("lab", version, Mode::Stripped));
        fs.host_file(&place.to_string_lossy(), &built)?;
    }
    Ok(())
}

/// Those of [`SCENARIOS`] that are asked for; all if none is.
pub(super) fn chosen(only: &[String]) -> Vec<&'static str> {
    let wanted = |name: &&str| only.is_empty() || only.iter().any(|o| o == name);
    SCENARIOS.into_iter().filter(wanted).collect()
}

/// What the guest's shell runs.
pub(super) fn script(scenarios: &[&str], trials: u32, seconds: u64) -> String {
    let mut script =
        format!("export G211S_BIN=/bin/g211s {}=/workloads; rc=0\n", go::BUILT_ELSEWHERE);
    for name in scenarios {
        let _ = writeln!(
            script,
            "xtask lab {name} --prepared --trials {trials} --window {seconds}000 --json /out/lab-{name}.json || rc=1"
        );
    }
    script + "exit $rc\n"
}

/// A scenario's stops: how many, how long, and how much of it is unexplained, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    stops: u64,
    stop_ns: u64,
    unexplained_ns: u64,
    affected: u64,
    right: u64,
}

impl Sums {
    /// Of what `cargo xtask lab --json` wrote.
    fn of(lab: &Value) -> Result<Self> {
        let rows = lab["scenarios"].as_array().context("no scenarios")?;
        let trials = rows.iter().filter_map(|r| r["trials"].as_array()).flatten();
        let mut sums = Self::default();
        for trial in trials {
            let n = |key: &str| trial[key].as_u64().with_context(|| format!("a trial's {key}"));
            sums.stops += n("stops")?;
            sums.stop_ns += n("stop_ns")?;
            sums.unexplained_ns += n("unexplained_ns")?;
            let pauses = trial["affected"].as_array().context("a trial's pauses")?;
            sums.affected += pauses.len() as u64;
            sums.right += pauses.iter().filter(|p| p["right"] == true).count() as u64;
        }
        Ok(sums)
    }

    fn share(&self) -> f64 {
        self.unexplained_ns as f64 / self.stop_ns.max(1) as f64
    }

    fn say(&self, name: &str) {
        println!(
            "vm: {name}: {} stops of {:.1} ms in all, {:.2} % of it unexplained; {} of {} affected pauses named rightly",
            self.stops,
            self.stop_ns as f64 / 1e6,
            self.share() * 100.0,
            self.right,
            self.affected,
        );
    }

    fn add(&mut self, other: Self) {
        self.stops += other.stops;
        self.stop_ns += other.stop_ns;
        self.unexplained_ns += other.unexplained_ns;
        self.affected += other.affected;
        self.right += other.right;
    }

    /// Whether enough verdicts are right.
    fn judge_verdicts(&self) -> Result<()> {
        let (right, affected) = (self.right, self.affected);
        ensure!(affected > 0, "no pause was affected");
        ensure!(
            right as f64 >= affected as f64 * RIGHT,
            "{right} of {affected} affected pauses are named rightly, of {} % at least",
            RIGHT * 100.0
        );
        Ok(())
    }

    /// Whether that is little enough.
    fn judge(&self) -> Result<()> {
        ensure!(self.stop_ns >= LEAST_NS, "{} ns of stops say nothing", self.stop_ns);
        let (share, most) = (self.share() * 100.0, UNEXPLAINED * 100.0);
        ensure!(
            share <= most,
            "{share:.2} % of all stops' time is unexplained, of {most} % at most"
        );
        Ok(())
    }
}

/// Prints and judges what the guest's laboratory left in `out`.
pub(super) fn check(scenarios: &[&str], out: &Path) -> Result<()> {
    let mut all = Sums::default();
    let mut verdicts = Ok(());
    for &name in scenarios {
        let file = out.join(format!("lab-{name}.json"));
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let sums = Sums::of(&serde_json::from_str(&text)?).with_context(|| name.to_owned())?;
        sums.say(name);
        if name == JUDGED {
            verdicts = sums.judge_verdicts().context(JUDGED);
        }
        all.add(sums);
    }
    all.say("all together");
    all.judge()?;
    verdicts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_are_run_unless_some_are_chosen() {
        assert_eq!(chosen(&[]), SCENARIOS);
        assert_eq!(chosen(&["sigstop".into(), "cpu-hog".into()]), ["cpu-hog", "sigstop"]);
    }

    #[test]
    fn the_share_is_of_all_time_and_can_fail() {
        let lab = |stop_ns: u64, unexplained_ns: u64| {
            let trial = json!({"stops": 3, "stop_ns": stop_ns, "unexplained_ns": unexplained_ns,
                               "affected": [{"right": true}, {"right": false}]});
            Sums::of(&json!({"scenarios": [{"trials": [trial, trial]}]})).unwrap()
        };
        let mut sums = lab(LEAST_NS, LEAST_NS / 100);
        assert_eq!((sums.stops, sums.affected, sums.right), (6, 4, 2));
        assert!(sums.judge().is_ok());
        sums.add(lab(LEAST_NS, LEAST_NS / 20));
        assert!(sums.judge().is_err(), "{}", sums.share());
        assert!(lab(LEAST_NS / 4, 0).judge().is_err());
        // Half of them are wrong, as all that waited for a group's return were on 6.1 once.
        assert!(sums.judge_verdicts().is_err());
        assert!(Sums { right: sums.affected, ..sums }.judge_verdicts().is_ok());
        assert!(Sums::default().judge_verdicts().is_err(), "nothing was affected");
        assert!(Sums::of(&json!({"scenarios": [{"trials": [{"stops": 1}]}]})).is_err());
    }
}
