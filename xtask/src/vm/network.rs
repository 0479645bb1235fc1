//! Whether the network lateness that g211s reports is that of the workload `netlate`, which knows when each of its
//! messages was sent and when it had been read: what was ready and not taken lies between the two.

use anyhow::{Context, Result, ensure};
use g211s_tests::report::Report;
use serde_json::Value;

/// A message: when a read last found nothing before it, when it was sent, and when it had been read, ns.
struct Message {
    asked: u64,
    sent: u64,
    read: u64,
}

/// What `netlate` wrote: `got ASKED SENT READ`.
fn messages(text: &str) -> Vec<Message> {
    let message = |line: &str| {
        let mut words = line.strip_prefix("got ")?.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        Some(Message { asked: number()?, sent: number()?, read: number()? })
    };
    text.lines().filter_map(message).collect()
}

/// Compares a report with what the workload told.
pub(super) fn check(report: &Report, told: &str) -> Result<()> {
    let source = report.at("/netpoll/lateness_source")?;
    ensure!(
        source == "ep_poll_callback",
        "this kernel has fentry, and lateness is told by {source}"
    );
    let (from, to) = report.window()?;
    let messages = messages(told);
    let whole = messages.iter().filter(|m| m.sent >= from && m.read <= to);
    let sent = whole.count() as u64;
    let seen = report.number("/netpoll/ready/count")?;
    let late = report.at("/netpoll/late")?.as_array().context("no list")?;
    println!("vm: {sent} messages, {seen} harvests, the {} latest looked at", late.len());
    ensure!(sent >= 20 && !late.is_empty(), "too little happened");
    // A poll may take two messages' worth, and the window cuts.
    ensure!(seen * 10 >= sent * 8, "only {seen} harvests for {sent} messages");
    for l in late {
        let ns = |key: &str| l[key].as_u64().with_context(|| format!("{key}: {l}"));
        let (ready, harvested) = (ns("ready_ns")?, ns("harvested_ns")?);
        // Who did not wait for a message read it without a poll, and the set was left alone for longer.
        let holds = |m: &Message| {
            m.sent <= ready && if m.asked < m.sent { harvested <= m.read } else { ready <= m.read }
        };
        ensure!(
            messages.iter().any(holds),
            "something is said to have been ready from {ready} to {harvested}, and no message was \
             under way all that time: {l}"
        );
        let causes = l["causes"].as_array().context("no causes")?;
        let sum: u64 = causes.iter().filter_map(|c| c["ns"].as_u64()).sum();
        ensure!(sum == ns("delay_ns")?, "the causes sum to {sum}: {l}");
    }
    if let Some(text) = late.first().and_then(|l| l["sentence"].as_str()) {
        println!("vm: {text}");
    }
    let known = |key: &str| late.iter().filter_map(|l| l["ms"][key].as_u64()).sum::<u64>();
    let (all, unknown) = (known("thread_ns"), known("unknown_ns"));
    println!("vm: of all threads' time meanwhile {unknown} of {all} ns are unknown");
    let unexplained = |c: &&Value| c["kind"] == "unexplained";
    let causes = late.iter().filter_map(|l| l["causes"].as_array()).flatten();
    let ns: u64 = causes.filter(unexplained).filter_map(|c| c["ns"].as_u64()).sum();
    println!("vm: of the delays themselves {ns} ns are unexplained");
    Ok(())
}
