//! `g211s report FILE --html OUT`: a recording as one page that needs nothing else. Must not know BPF, processes, or how
//! anything was observed.
//!
//! Twice through the recording: the first pass makes the report, as always, and the second takes what only pictures
//! need ([`collect`]) around the pauses that the report found worst ([`plan`]). So a page costs memory by its own size,
//! not by the recording's.
//!
//! The page is a fixed frame (`page/`: markup, style, scripts) and one block of JSON ([`data`]). Whatever came from
//! outside is in that block alone, is shown as text and never as markup, and the page's own policy lets nothing run or
//! load but the frame's style and script ([`embed`]).

mod allocs;
mod collect;
mod columns;
mod data;
mod embed;
mod heat;
mod lanes;
mod limits;
mod plan;
mod sha256;
mod together;
mod words;

#[cfg(test)]
mod tests;

use anyhow::Result;

use crate::allocs::model::Model;
use crate::record::Record;
use crate::report::{Pipeline, Report, Style, text};
use collect::Collector;
use data::Page;

/// The first pass over a recording.
#[derive(Debug)]
pub struct First {
    pipeline: Pipeline,
    allocations: Model,
    stalls: bool,
}

impl First {
    /// A run that has not begun; `source` is what `run.source` will say.
    pub fn new(source: &str) -> Self {
        Self { pipeline: Pipeline::new(source), allocations: Model::default(), stalls: false }
    }

    /// Takes the next record.
    pub fn push(&mut self, record: Record) {
        let head = matches!(record, Record::Start(_) | Record::End(_) | Record::Notice(_));
        let of_allocations = matches!(
            record,
            Record::AllocRun(_)
                | Record::AllocStack(_)
                | Record::AllocSamples(_)
                | Record::AllocState(_)
                | Record::AllocSums(_)
                | Record::HeapLook(_)
        );
        // Names are of both.
        let symbol = matches!(record, Record::Symbol(_));
        self.stalls |= !head && !of_allocations && !symbol;
        if head || symbol {
            self.allocations.push(record.clone());
        }
        if of_allocations {
            self.allocations.push(record);
        } else {
            self.pipeline.push(record);
        }
    }

    /// The end of the first pass: the report, and what takes the records once more.
    pub fn finish(self) -> Second {
        let report = self.pipeline.finish();
        let allocations = self.allocations.is_of_allocations().then_some(self.allocations);
        // A recording of nothing at all is one of stalls: it has a report that says so.
        let stalls = self.stalls || allocations.is_none();
        let collector = Collector::new(&report);
        Second { report, allocations, stalls, collector }
    }
}

/// The second pass.
#[derive(Debug)]
pub struct Second {
    report: Report,
    allocations: Option<Model>,
    stalls: bool,
    collector: Collector,
}

impl Second {
    /// Takes the next record, from the first on.
    pub fn push(&mut self, record: Record) {
        self.collector.push(record);
    }

    /// The page.
    ///
    /// # Errors
    /// Never, in fact: what cannot be written as JSON is not in it.
    pub fn finish(self) -> Result<String> {
        let Self { report, allocations, stalls, collector } = self;
        let mut plain = if stalls { text(&report, Style::Plain) } else { String::new() };
        let pictures = collector.finish();
        let allocations = allocations.map(|model| {
            let document = crate::allocs::schema::document(&model);
            plain += &crate::allocs::text::text(&document, allocs::SITES);
            allocs::section(&model, document)
        });
        embed::page(&Page::new(report, stalls, pictures, allocations), &plain)
    }
}
