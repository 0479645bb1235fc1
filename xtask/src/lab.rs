//! The fault laboratory on the command line: scenarios by name, what each trial gave, the confusion
//! matrix, and the page of the docs that has it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use g211s_tests::kernel;
use g211s_tests::lab::scenarios::{self, Scenario};
use g211s_tests::lab::table::{self, Row};
use g211s_tests::lab::trial::{self, Setting, Trial};

use crate::{setup, toolchain};

#[derive(Args)]
pub(crate) struct Options {
    /// The scenario, or `all`
    #[arg(required_unless_present = "list")]
    scenario: Option<String>,
    /// Say which scenarios there are
    #[arg(long)]
    list: bool,
    /// How often to run it
    #[arg(long, default_value_t = 3)]
    trials: u64,
    /// Settles moments, lengths and variations; each further trial adds one
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long g211s observes in each trial, in ms
    #[arg(long, default_value_t = 2500)]
    window: u64,
    /// Neither install nor build anything, as in the guests of `cargo xtask vm`
    #[arg(long)]
    prepared: bool,
    /// Write every trial with its affected pauses to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Replace the results in this page of the docs
    #[arg(long)]
    write: Option<PathBuf>,
}

/// Between these lines of the page are results.
const BEGIN: &str = "<!-- results: begin -->";
const END: &str = "<!-- results: end -->";

/// How many wrong verdicts of a trial are shown; `--json` has all.
const SHOWN: usize = 5;

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.list {
        for scenario in scenarios::ALL {
            println!("{:18} {}", scenario.name, scenario.about);
        }
        return Ok(());
    }
    let wanted = options.scenario.as_deref().unwrap_or_default();
    let chosen: Vec<&Scenario> =
        match wanted {
            "all" => scenarios::ALL.iter().collect(),
            name => vec![scenarios::named(name).with_context(|| {
                format!("no scenario {name}; `cargo xtask lab --list` has them")
            })?],
        };
    if !nix::unistd::geteuid().is_root() {
        bail!("observing needs root: sudo -E env \"PATH=$PATH\" cargo xtask lab {wanted}");
    }
    if let Some(page) = &options.write {
        // Now, and not after half an hour.
        replaced(&std::fs::read_to_string(page).with_context(|| page.display().to_string())?, "")?;
    }
    if !options.prepared {
        setup::run(setup::Purpose::Test)?;
        // The harness takes a binary that is given.
        if std::env::var_os("G211S_BIN").is_none() {
            toolchain::build_binary()?;
        }
    }
    kernel::prepare(&[])?;
    let (mut rows, mut failed) = (Vec::new(), 0);
    for scenario in chosen {
        let (row, without_result) = row(scenario, options);
        rows.push(row);
        failed += without_result;
    }
    let mut table = table::markdown(&rows);
    if failed > 0 {
        table = format!("{table}\n{failed} trials failed and are not in the tables.\n");
    }
    println!("\n{table}");
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&table::json(&rows))?;
        std::fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    if let Some(page) = &options.write {
        let text = replaced(&std::fs::read_to_string(page)?, &results(&table, options)?)?;
        std::fs::write(page, text).with_context(|| page.display().to_string())?;
    }
    ensure!(failed == 0, "{failed} trials failed");
    Ok(())
}

/// Runs a scenario's trials; how many of them came to no result.
fn row(scenario: &Scenario, options: &Options) -> (Row, usize) {
    println!("\nlab: {}: {}", scenario.name, scenario.about);
    if let Err(why) = (scenario.possible)() {
        println!("  skipped: {why:#}");
        let skipped = Some(format!("{why:#}"));
        return (Row { name: scenario.name, trials: Vec::new(), skipped }, 0);
    }
    let (mut trials, mut failed) = (Vec::new(), 0);
    for n in 0..options.trials {
        let window = Duration::from_millis(options.window);
        // One that fails (something killed the target, say) shall not cost the others.
        match trial::run(scenario, Setting { seed: options.seed + n, window }) {
            Ok(trial) => {
                say(&trial);
                trials.push(trial);
            }
            Err(error) => {
                failed += 1;
                println!("  seed {}: FAILED: {error:#}", options.seed + n);
            }
        }
    }
    (Row { name: scenario.name, trials, skipped: None }, failed)
}

fn say(trial: &Trial) {
    let ms = |ns: u64| ns as f64 / 1e6;
    println!("  seed {}: {}", trial.seed, trial.how);
    if trial.injections > 0 {
        println!(
            "    injected: {} times, {:.1} ms in all",
            trial.injections,
            ms(trial.injected_ns)
        );
    }
    if trial.not_injected > 0 {
        println!("    nothing was injected that affected a pause, {} times", trial.not_injected);
    }
    println!(
        "    g211s: {} stops of {:.1} ms in all, {:.1} ms unexplained",
        trial.stops,
        ms(trial.stop_ns),
        ms(trial.unexplained_ns)
    );
    if !trial.pauses.is_empty() {
        let right = trial.pauses.iter().filter(|p| p.right).count();
        println!(
            "    {} pauses were certainly affected, {right} named rightly",
            trial.pauses.len()
        );
    }
    let wrong: Vec<_> = trial.pauses.iter().filter(|p| !p.right).collect();
    if wrong.len() > SHOWN {
        println!("    {} are wrong; the first {SHOWN}:", wrong.len());
    }
    for pause in wrong.into_iter().take(SHOWN) {
        println!(
            "    WRONG: {:?} at {} ns of {:.2} ms, {:.2} ms of it injected, is said to be {} {}: {:?}",
            pause.what,
            pause.start_ns,
            ms(pause.total_ns),
            ms(pause.injected_ns),
            pause.named,
            pause.function.as_deref().unwrap_or_default(),
            pause.causes
        );
    }
    if let Some(accusations) = &trial.accusations {
        let (count, of) = (accusations.count, accusations.of);
        println!(
            "    {count} accusations in {of} pauses, {} unconfirmed",
            accusations.unconfirmed.len()
        );
        if accusations.undecided > 0 {
            println!("    {} more while perf lost events: not judged", accusations.undecided);
        }
        for unconfirmed in &accusations.unconfirmed {
            println!("    UNCONFIRMED: {unconfirmed}");
        }
    }
}

/// What the page has between its marks.
fn results(table: &str, options: &Options) -> Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = g211s_tests::proc::cpus()?.len();
    let scenario = options.scenario.as_deref().unwrap_or_default();
    Ok(format!(
        "`cargo xtask lab {scenario} --trials {} --seed {} --window {} --write docs/lab.md`, on kernel {} with {cpus} CPUs:\n\n{table}",
        options.trials,
        options.seed,
        options.window,
        kernel.trim(),
    ))
}

fn replaced(page: &str, results: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(a, rest)| Some((a, rest.split_once(END)?.1)));
    ensure!(parts.is_some(), "the page lacks the lines {BEGIN} and {END}");
    let (before, after) = parts.unwrap_or_default();
    Ok(format!("{before}{BEGIN}\n{results}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let new = replaced(&page, "new").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert!(replaced("no marks", "new").is_err());
    }
}
