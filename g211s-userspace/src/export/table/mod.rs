//! A recording as tables, for notebooks: events, pauses, delays, their causes, cycles. Must not know how a format is
//! laid out.

mod csv;
mod parquet;
mod rows;
mod schema;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context as _, Result};
use serde::Serialize;

use self::rows::Rows;
use self::schema::{ALL, CAUSES, CYCLES, DELAYS, EVENTS, PAUSES, Table, VERSION};
use super::Export;
use super::output::{Output, is_stdout};
use crate::event::Event;
use crate::record::Record;
use crate::report::{Evidence, Note, Pipeline, Report};

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell<'a> {
    Null,
    U64(u64),
    I64(i64),
    Bool(bool),
    Text(&'a str),
}

/// A table being written.
trait TableWriter {
    /// Takes a row: as many cells as the table has columns, each of its column's type or null.
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<()>;
    /// Ends it.
    fn finish(self: Box<Self>) -> Result<()>;
}

type Open = fn(Output, &Table) -> Result<Box<dyn TableWriter>>;

/// Tables being written.
pub(super) struct Tables {
    rows: Rows,
    events: Box<dyn TableWriter>,
    /// Those besides the events, if they are asked for.
    others: Option<Others>,
}

struct Others {
    pauses: Box<dyn TableWriter>,
    delays: Box<dyn TableWriter>,
    causes: Box<dyn TableWriter>,
    cycles: Box<dyn TableWriter>,
    schema: Output,
}

/// What `schema.json` says.
#[derive(Serialize)]
struct Schema {
    version: &'static str,
    g211s_version: String,
    clock: &'static str,
    /// `CLOCK_MONOTONIC` at the beginning, ns, and the same moment since 1970 (UTC), ns.
    start_ns: u64,
    wall_ns: u64,
    tables: [Table; 5],
}

impl Tables {
    /// As CSV.
    pub(super) fn csv(path: &Path, written: &Arc<AtomicU64>) -> Result<Self> {
        Self::create(path, "csv", written, |out, table| Ok(Box::new(csv::Csv::new(out, table)?)))
    }

    /// As Parquet.
    pub(super) fn parquet(path: &Path, written: &Arc<AtomicU64>) -> Result<Self> {
        Self::create(path, "parquet", written, |out, table| {
            Ok(Box::new(parquet::Parquet::new(out, table)?))
        })
    }

    fn create(path: &Path, ending: &str, written: &Arc<AtomicU64>, open: Open) -> Result<Self> {
        let is_text = ending == "csv";
        let rows = Rows::default();
        let alone = is_stdout(path) || path.extension().is_some_and(|e| e == ending);
        if alone && !path.is_dir() {
            let events = open(Output::create(path, is_text, written)?, &EVENTS)?;
            return Ok(Self { rows, events, others: None });
        }
        if path.exists() && !path.is_dir() {
            anyhow::bail!(
                "{} is a file: give a folder for all tables, or a name that ends in .{ending} for the events",
                path.display()
            );
        }
        std::fs::create_dir_all(path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        let file = |name: &str| -> PathBuf { path.join(name) };
        let table = |table: &Table| {
            let file = file(&format!("{}.{ending}", table.name));
            open(Output::create(&file, is_text, written)?, table)
        };
        let events = table(&EVENTS)?;
        let others = Others {
            pauses: table(&PAUSES)?,
            delays: table(&DELAYS)?,
            causes: table(&CAUSES)?,
            cycles: table(&CYCLES)?,
            schema: Output::create(&file("schema.json"), true, written)?,
        };
        Ok(Self { rows, events, others: Some(others) })
    }
}

impl Export for Tables {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.rows.record(record);
        Ok(())
    }

    fn event(&mut self, event: &Event, _seen: &Evidence<'_>) -> Result<()> {
        self.rows.event(event, &mut *self.events)
    }

    fn note(&mut self, note: &Note) -> Result<()> {
        let Some(others) = &mut self.others else { return Ok(()) };
        self.rows.delay(note, &mut *others.delays, &mut *others.causes)
    }

    fn flushed(&mut self, _run: &Pipeline) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>, report: &Report) -> Result<u64> {
        self.events.finish()?;
        let Some(mut others) = self.others else { return Ok(0) };
        let targets = std::iter::once(&report.first).chain(&report.others);
        for (index, target) in targets.enumerate() {
            rows::pauses(index, target, &mut *others.pauses, &mut *others.causes)?;
            rows::cycles(index, target, &mut *others.cycles)?;
        }
        for table in [others.pauses, others.delays, others.causes, others.cycles] {
            table.finish()?;
        }
        let window = report.first.window;
        let schema = Schema {
            version: VERSION,
            g211s_version: report.run.g211s_version.clone(),
            clock: "CLOCK_MONOTONIC of the machine observed",
            start_ns: window.start_ns,
            wall_ns: window.wall_ns,
            tables: ALL,
        };
        let text = serde_json::to_string_pretty(&schema).context("schema.json")? + "\n";
        let out = &mut others.schema;
        out.write_all(text.as_bytes()).map_err(|e| out.error(e))?;
        others.schema.finish()?;
        Ok(0)
    }
}
