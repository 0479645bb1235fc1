//! Results over trials: a line for each scenario, the confusion matrix, and the same as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::label::Label;
use super::trial::Trial;

/// All trials of a scenario.
#[derive(Clone, Debug)]
pub struct Row {
    /// The scenario's name.
    pub name: &'static str,
    /// Its trials.
    pub trials: Vec<Trial>,
    /// Why it was not run.
    pub skipped: Option<String>,
}

/// What the trials of a scenario amount to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Trials that say anything.
    pub trials: usize,
    /// Attempts in which nothing was injected.
    pub not_injected: u64,
    /// Affected pauses.
    pub affected: usize,
    /// Those whose cause was named rightly.
    pub right: usize,
    /// Time of stops, and how much of it is unexplained, ns.
    pub stop_ns: u64,
    /// See above.
    pub unexplained_ns: u64,
    /// Pauses and delays in which nobody should be accused.
    pub quiet: usize,
    /// Accusations among them.
    pub accusations: usize,
    /// Those that nothing confirms.
    pub false_accusations: usize,
    /// Affected pauses by the name that the report gave them.
    pub named: BTreeMap<Label, usize>,
}

impl Row {
    /// Sums up.
    pub fn summary(&self) -> Summary {
        let mut all = Summary::default();
        for trial in &self.trials {
            all.trials += usize::from(trial.counts());
            all.not_injected += trial.not_injected;
            all.affected += trial.pauses.len();
            all.right += trial.pauses.iter().filter(|p| p.right).count();
            all.stop_ns += trial.stop_ns;
            all.unexplained_ns += trial.unexplained_ns;
            for pause in &trial.pauses {
                *all.named.entry(pause.named.clone()).or_insert(0) += 1;
            }
            if let Some(accusations) = &trial.accusations {
                all.quiet += accusations.of;
                all.accusations += accusations.count;
                all.false_accusations += accusations.unconfirmed.len();
            }
        }
        all
    }
}

fn percent(part: f64, of: f64) -> String {
    if of == 0.0 { "–".to_owned() } else { format!("{:.1} %", 100.0 * part / of) }
}

impl Summary {
    /// The share of affected pauses that were named rightly.
    pub fn right_share(&self) -> String {
        percent(self.right as f64, self.affected as f64)
    }

    /// The share of all pauses' time that is unexplained.
    pub fn unexplained_share(&self) -> String {
        percent(self.unexplained_ns as f64, self.stop_ns as f64)
    }

    fn accused(&self) -> String {
        if self.quiet == 0 {
            return "–".to_owned();
        }
        format!("{} of {} (in {})", self.false_accusations, self.accusations, self.quiet)
    }
}

/// The summary and the confusion matrix, as Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut out = String::from(
        "| scenario | trials | not injected | affected pauses | named rightly | unexplained | false accusations |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        if let Some(why) = &row.skipped {
            let _ = writeln!(out, "| {} | skipped: {why} | | | | | |", row.name);
            continue;
        }
        let s = row.summary();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            s.trials,
            s.not_injected,
            s.affected,
            s.right_share(),
            s.unexplained_share(),
            s.accused()
        );
    }
    let judged: Vec<(&str, Summary)> =
        rows.iter().map(|r| (r.name, r.summary())).filter(|(_, s)| s.affected > 0).collect();
    if judged.is_empty() {
        return out;
    }
    let labels: BTreeSet<&Label> = judged.iter().flat_map(|(_, s)| s.named.keys()).collect();
    let heads: Vec<&str> = labels.iter().map(|l| l.as_str()).collect();
    let _ = write!(
        out,
        "\n| injected \\ named | {} |\n|---|{}\n",
        heads.join(" | "),
        "--:|".repeat(heads.len())
    );
    for (name, summary) in &judged {
        let cell =
            |label: &&Label| summary.named.get(*label).map_or(String::new(), usize::to_string);
        let cells: Vec<String> = labels.iter().map(cell).collect();
        let _ = writeln!(out, "| {name} | {} |", cells.join(" | "));
    }
    out
}

/// Everything, for other programs.
pub fn json(rows: &[Row]) -> Value {
    let pause = |p: &super::judge::Pause| {
        json!({"what": format!("{:?}", p.what).to_lowercase(), "start_ns": p.start_ns,
               "total_ns": p.total_ns, "injected_ns": p.injected_ns, "named": p.named,
               "right": p.right, "function": p.function, "causes": p.causes})
    };
    let trial = |t: &Trial| {
        let accusations = t
            .accusations
            .as_ref()
            .map(|a| json!({"of": a.of, "count": a.count, "unconfirmed": a.unconfirmed, "undecided": a.undecided}));
        json!({"seed": t.seed, "how": t.how, "not_injected": t.not_injected,
               "injections": t.injections, "injected_ns": t.injected_ns, "stops": t.stops,
               "stop_ns": t.stop_ns, "unexplained_ns": t.unexplained_ns,
               "accusations": accusations,
               "affected": t.pauses.iter().map(pause).collect::<Vec<_>>()})
    };
    let row = |r: &Row| {
        json!({"scenario": r.name, "skipped": r.skipped,
               "trials": r.trials.iter().map(trial).collect::<Vec<_>>()})
    };
    json!({"schema": "g211s.lab/1", "scenarios": rows.iter().map(row).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::accuse::Accusations;
    use crate::lab::judge::{Pause, What};

    fn pause(named: &str, right: bool) -> Pause {
        Pause {
            what: What::Stop,
            start_ns: 0,
            total_ns: 10,
            injected_ns: 8,
            named: named.to_owned(),
            right,
            causes: BTreeMap::new(),
            function: None,
        }
    }

    fn trial(pauses: Vec<Pause>, accusations: Option<Accusations>) -> Trial {
        Trial {
            seed: 1,
            how: String::new(),
            not_injected: 1,
            injected_ns: 8,
            injections: 1,
            pauses,
            stops: 2,
            stop_ns: 200,
            unexplained_ns: 3,
            accusations,
        }
    }

    #[test]
    fn the_matrix_counts_pauses_by_their_name() {
        let pauses =
            vec![pause("page_fault", true), pause("blocked", false), pause("page_fault", true)];
        let nobody = Accusations { of: 50, count: 2, unconfirmed: vec!["x".into()], undecided: 0 };
        let rows = [
            Row { name: "page-faults", trials: vec![trial(pauses, None)], skipped: None },
            Row { name: "healthy", trials: vec![trial(Vec::new(), Some(nobody))], skipped: None },
            Row { name: "quota", trials: Vec::new(), skipped: Some("no cgroup".into()) },
        ];
        let text = markdown(&rows);
        for line in [
            "| page-faults | 1 | 1 | 3 | 66.7 % | 1.5 % | – |",
            "| healthy | 1 | 1 | 0 | – | 1.5 % | 1 of 2 (in 50) |",
            "| quota | skipped: no cgroup | | | | | |",
            "| injected \\ named | blocked | page_fault |",
            "| page-faults | 1 | 2 |",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
        }
        assert_eq!(json(&rows)["scenarios"][0]["trials"][0]["affected"][1]["named"], "blocked");
    }
}
