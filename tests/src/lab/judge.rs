//! What the report says about the pauses that were certainly affected by what was injected.
//!
//! A pause is *affected* when the injected cause certainly took so much of it that it must be the
//! largest of its causes: at least [`LEAST_NS`], and at least [`SHARE`] of the pause. It is *named rightly*
//! when the report's largest cause, summed by name, is one of those that mean the injected one.

use std::collections::BTreeMap;

use anyhow::Result;

use super::label::{self, Label};
use super::span::{Span, covered};
use crate::report::{Cause, Report};

/// Less than this is nothing that anybody would look into, ns.
pub const LEAST_NS: u64 = 1_000_000;
/// More than half, with room for what happens at the edges of an interval.
pub const SHARE: f64 = 0.6;

/// What was injected, as somebody else than g211s measured it.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// When. They do not overlap.
    pub spans: Vec<Span>,
    /// Names that mean it.
    pub means: Vec<&'static str>,
    /// The process that was put in the target's way.
    pub hog: Option<u32>,
    /// The function at fault, for reports that name functions.
    pub function: Option<&'static str>,
    /// Whether waits for a CPU outside stops are affected as well.
    pub delays_too: bool,
}

/// What kind of pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The world was stopped.
    Stop,
    /// A thread waited for a CPU.
    Delay,
    /// Goroutines waited, for what the report's `goroutine_delays` tell.
    Goroutines,
}

/// An affected pause.
#[derive(Clone, Debug)]
pub struct Pause {
    /// What kind.
    pub what: What,
    /// When it began, ns.
    pub start_ns: u64,
    /// Its length, ns.
    pub total_ns: u64,
    /// How much of it was certainly injected, ns.
    pub injected_ns: u64,
    /// The name that the report gives to most of it.
    pub named: Label,
    /// Whether that is right.
    pub right: bool,
    /// Its time by name.
    pub causes: BTreeMap<Label, u64>,
    /// The function that the report names with it.
    pub function: Option<String>,
}

/// The affected pauses of a report.
pub fn affected(report: &Report, truth: &Truth) -> Result<Vec<Pause>> {
    let mut pauses = Vec::new();
    let mut judge = |what, start_ns, total_ns, causes: &[Cause]| {
        let injected_ns = covered(&truth.spans, start_ns, start_ns + total_ns);
        if injected_ns >= LEAST_NS && injected_ns as f64 >= SHARE * total_ns as f64 {
            pauses.push(judged(what, (start_ns, total_ns, injected_ns), causes, truth));
        }
    };
    for stw in report.stws()? {
        judge(What::Stop, stw.start_ns, stw.total_ns, &stw.causes);
    }
    if truth.delays_too {
        for delay in report.delays()? {
            judge(What::Delay, delay.start_ns, delay.wait_ns, &delay.told());
        }
    }
    Ok(pauses)
}

fn judged(
    what: What,
    (start_ns, total_ns, injected_ns): (u64, u64, u64),
    causes: &[Cause],
    truth: &Truth,
) -> Pause {
    let sums = label::sums(causes, truth.hog);
    let named = label::largest(&sums);
    let longest = causes.iter().filter(|c| label::of(c, truth.hog) == named).max_by_key(|c| c.ns);
    let function = longest.and_then(|c| c.code.clone());
    let right_code = match (&function, truth.function) {
        (Some(named), Some(wanted)) => named.ends_with(wanted),
        _ => true,
    };
    Pause {
        what,
        start_ns,
        total_ns,
        injected_ns,
        right: truth.means.contains(&named.as_str()) && right_code,
        named,
        causes: sums,
        function,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stop(start: u64, causes: &[(&str, u64)]) -> serde_json::Value {
        let total: u64 = causes.iter().map(|c| c.1).sum();
        let list: Vec<_> = causes
            .iter()
            .map(|(kind, ns)| json!({"kind": kind, "ns": ns, "code": {"function": "main.loop"}}))
            .collect();
        json!({"reason": "x", "start_ns": start, "total_ns": total, "stopping_ns": 0,
               "stopped_ns": total, "explained_ns": total, "unexplained_ns": 0, "causes": list})
    }

    fn report() -> Report {
        Report(json!({"stw": [
            stop(0, &[("page_fault", 3_000_000), ("runtime_work", 1_000_000)]),
            stop(10_000_000, &[("runtime_work", 5_000_000)]),
            stop(20_000_000, &[("page_fault", 3_000_000), ("blocked", 3_100_000)]),
        ]}))
    }

    fn truth() -> Truth {
        let spans = [(500_000, 4_000_000), (13_000_000, 15_000_000), (20_000_000, 24_000_000)];
        let spans = spans.map(|(from, to)| Span::new(from, to)).to_vec();
        Truth { spans, means: vec!["page_fault"], ..Truth::default() }
    }

    #[test]
    fn only_what_is_mostly_injected_is_judged() {
        let pauses = affected(&report(), &truth()).unwrap();
        let got: Vec<_> = pauses.iter().map(|p| (p.start_ns, p.named.as_str(), p.right)).collect();
        assert_eq!(got, [(0, "page_fault", true), (20_000_000, "blocked", false)]);
        assert_eq!(pauses[0].injected_ns, 3_500_000);
    }

    #[test]
    fn a_wrong_function_is_a_wrong_verdict() {
        let named = |function| {
            let truth = Truth { function: Some(function), ..truth() };
            affected(&report(), &truth).unwrap()[0].right
        };
        assert!(named("main.loop") && !named("main.other"));
    }
}
