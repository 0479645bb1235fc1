//! The list as a table. Must not know how it was made.

use std::fmt::Write as _;

use super::{Figure, List, Process};
use crate::report::format::{bytes, clean, count, plural, short};

const COMM: usize = 15;
const MODULE: usize = 44;
const CONTAINER: usize = 24;
/// Characters of a container's id, as the engines print it.
const ID: usize = 12;

/// The table, and what is not in it.
pub fn text(list: &List) -> String {
    let mut rows = vec![
        ["PID", "COMMAND", "GO", "PROCS", "LIVE HEAP", "GOROUTINES", "LINK"]
            .map(str::to_owned)
            .into_iter()
            .chain(["CONTAINER", "MODULE"].map(str::to_owned))
            .collect::<Vec<String>>(),
    ];
    rows.extend(list.processes.iter().map(row));
    let columns = rows[0].len();
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            // Numbers to the right.
            let _ = match c {
                0 | 3..=5 => write!(line, "{cell:>width$}  ", width = widths[c]),
                _ => write!(line, "{cell:width$}  ", width = widths[c]),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    reasons(&mut out, list);
    let seen = list.seen;
    let _ = writeln!(
        out,
        "\n{} of {}",
        plural(seen.go, "Go process", "Go processes"),
        plural(seen.processes, "process", "processes")
    );
    if seen.unreadable > 0 {
        let _ = writeln!(
            out,
            "{} may not be looked at, and may be Go: run g211s as root, with CAP_SYS_PTRACE",
            plural(seen.unreadable, "process", "processes")
        );
    }
    out
}

fn row(process: &Process) -> Vec<String> {
    let figure = |f: &Figure<u64>, show: fn(u64) -> String| {
        f.value.map_or_else(|| "–".to_owned(), show) + if is_rough(f) { "≈" } else { "" }
    };
    let container = process.container.as_ref().map_or_else(String::new, |c| {
        let id: String = clean(&c.id).chars().take(ID).collect();
        short(&format!("{}:{id}", c.engine), CONTAINER)
    });
    let module = process.module.as_ref().or(process.path.as_ref());
    let version = process.module_version.as_deref().filter(|v| *v != "(devel)");
    let module = match (module, version) {
        (Some(module), Some(version)) => {
            format!("{} {}", short(module, MODULE), short(version, 24))
        }
        (Some(module), None) => short(module, MODULE),
        (None, _) => "–".to_owned(),
    };
    vec![
        process.pid.to_string(),
        short(&clean(&process.comm), COMM),
        clean(process.go_version.trim_start_matches("go")),
        figure(&process.gomaxprocs, |n| n.to_string()),
        figure(&process.live_heap_bytes, bytes),
        figure(&process.goroutines, count),
        process.link_mode.as_ref().map_or_else(|| "–".to_owned(), |words| words.join(",")),
        container,
        clean(&module),
    ]
}

fn is_rough(figure: &Figure<u64>) -> bool {
    figure.value.is_some() && figure.note.is_some()
}

/// Why cells are empty, each reason once.
fn reasons(out: &mut String, list: &List) {
    let mut reasons: Vec<(String, Vec<u32>)> = Vec::new();
    let mut add = |pid: u32, what: &str, why: Option<&String>| {
        let Some(why) = why else { return };
        let line = format!("{what}: {}", clean(why));
        match reasons.iter_mut().find(|(known, _)| *known == line) {
            Some((_, pids)) => pids.push(pid),
            None => reasons.push((line, vec![pid])),
        }
    };
    for process in &list.processes {
        let can = &process.can;
        add(process.pid, "no pauses (attach)", can.attach.why.as_ref());
        if can.attach.why != can.goroutines.why {
            add(process.pid, "no goroutines", can.goroutines.why.as_ref());
        }
        if can.goroutines.why != can.runtime.why {
            add(process.pid, "no figures of the runtime", can.runtime.why.as_ref());
        }
        let figures = [
            ("no live heap", &process.live_heap_bytes, &can.runtime),
            ("no number of procs", &process.gomaxprocs, &can.runtime),
            ("no number of goroutines", &process.goroutines, &can.goroutines),
        ];
        for (what, figure, answer) in figures {
            if answer.ok && figure.value.is_none() {
                add(process.pid, what, figure.note.as_ref());
            }
        }
    }
    if !reasons.is_empty() {
        out.push('\n');
    }
    for (line, pids) in reasons {
        let shown: Vec<String> = pids.iter().take(8).map(u32::to_string).collect();
        let more =
            if pids.len() > 8 { format!(" and {} more", pids.len() - 8) } else { String::new() };
        let _ = writeln!(out, "{}{more}: {line}", shown.join(", "));
    }
}
