//! Cost: requests a second with g211s attached over those without, in interleaved pairs, and the
//! same for a bpftrace script that looks at the same things. Minutes long: only with `--all`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::service::{Launch, Service};
use g211s_tests::stats::{Interval, median, median_interval, quantile};
use g211s_tests::truth::epoll::Bpftrace;
use g211s_tests::{go, kernel, needs_kernel, run_all};
use nix::sys::signal::Signal;

const PAIRS: usize = 10;

/// Requests a second by wrk, over ten seconds: from one second to the next they vary by 7 % on their own.
fn throughput(service: &Service) -> Result<f64> {
    let mut wrk: Command = kernel::tool("wrk")?;
    wrk.args(["-t1", "-c8", "-d10s"]).arg(service.url("/work?kb=16"));
    let text = g211s_tests::proc::output_of(&mut wrk)?;
    ensure!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let line = text.lines().find_map(|l| l.trim().strip_prefix("Requests/sec:")).context("wrk")?;
    Ok(line.trim().parse()?)
}

/// What an administrator would write for the same questions.
fn script(service: &Service) -> String {
    let (pid, file) = (service.pid(), service.binary.display());
    format!(
        "tracepoint:sched:sched_wakeup,tracepoint:sched:sched_wakeup_new {{ @queued[args->pid] = nsecs; }} \
         tracepoint:sched:sched_switch {{ if (args->prev_state == 0) {{ @queued[args->prev_pid] = nsecs; }} \
           $since = @queued[args->next_pid]; \
           if ($since && args->next_comm == \"service\") {{ @delay = hist(nsecs - $since); }} delete(@queued[args->next_pid]); }} \
         uprobe:{file}:\"runtime.stopTheWorldWithSema\" /pid == {pid}/ {{ @stop = nsecs; }} \
         uprobe:{file}:\"runtime.startTheWorldWithSema\" /pid == {pid}/ {{ @pause = hist(nsecs - @stop); }} \
         uprobe:{file}:\"runtime.gcStart\",uprobe:{file}:\"runtime.gcMarkTermination\",\
         uprobe:{file}:\"runtime.gcstopm\",uprobe:{file}:\"runtime.(*mcache).refill\" \
           /pid == {pid}/ {{ @hits[probe] = count(); }} \
         tracepoint:syscalls:sys_enter_epoll_pwait /pid == {pid}/ {{ @polls[args->timeout == 0] = count(); }}"
    )
}

#[test]
fn attached_over_not_attached() -> Result<()> {
    needs_kernel!("wrk", "bpftrace");
    if !run_all() {
        // Left out, not impossible: never a failure.
        println!("skipped: takes minutes; cargo xtask test --all");
        return Ok(());
    }
    // With symbols, for bpftrace's sake.
    let service = Launch::new("service", go::NEW).mode(go::Mode::Plain).start()?;
    throughput(&service)?;
    let (mut ours, mut theirs, mut nobodys) = (Vec::new(), Vec::new(), Vec::new());
    // Each measurement stands between two without any observer and is compared with their mean, so
    // that a drift of the machine or of the service's heap favours nobody.
    let mut before = throughput(&service)?;
    for pair in 0..PAIRS {
        let running = Attach::new(service.pid(), Duration::from_mins(1)).start()?;
        let attached = throughput(&service)?;
        running.stop(Signal::SIGINT)?;
        let between = throughput(&service)?;
        ours.push(attached * 2.0 / (before + between));
        let traced = match Bpftrace::start(&script(&service)) {
            Ok(bpftrace) => {
                let rps = throughput(&service)?;
                bpftrace.stop()?;
                Some(rps)
            }
            Err(why) if pair == 0 => {
                println!("no comparison with bpftrace: {why:#}");
                None
            }
            Err(_) => None,
        };
        let after = throughput(&service)?;
        theirs.extend(traced.map(|rps| rps * 2.0 / (between + after)));
        // What the machine does by itself, judged in the same way.
        nobodys.push(between * 2.0 / (before + after));
        before = after;
    }
    for (who, ratios) in [("g211s", &ours), ("bpftrace", &theirs), ("nobody", &nobodys)] {
        let Interval { at, low, high } = median_interval(ratios);
        println!(
            "{who}: median {at:.4} of the requests/s without it (95 %: {low:.4} to {high:.4}; {} pairs, \
             {:.4} to {:.4})",
            ratios.len(),
            quantile(ratios, 0.0),
            quantile(ratios, 1.0),
        );
    }
    // The aim is 0.99; the bound leaves room for a shared machine.
    ensure!(median(&ours) >= 0.95, "g211s costs too much");
    ensure!(theirs.is_empty() || median(&ours) >= median(&theirs), "bpftrace costs less");
    Ok(())
}
