//! From a run's stream to its report: [`Pipeline`] takes the records, [`schema::Report`] is the
//! result, [`text`] and [`sentence`] print it, JSON comes through serde. Must not know files, BPF
//! or clocks; printing never changes the model.

mod build;
pub mod format;
mod goroutine;
mod network;
mod pipeline;
mod runtime;
pub mod schema;
pub mod sentence;
pub mod text;

#[cfg(test)]
pub(crate) mod tests;

pub use pipeline::{Evidence, Note, Pipeline};
pub use schema::{Report, SCHEMA, StwReport};
pub use sentence::{delay_sentence, disagreement, sentence, sleep_sentence};
pub use text::{Style, text};

use crate::record::Record;

impl Report {
    /// The report of a whole run; `source` is what `run.source` will say.
    pub fn build(source: &str, records: impl IntoIterator<Item = Record>) -> Self {
        let mut pipeline = Pipeline::new(source);
        for record in records {
            pipeline.push(record);
        }
        pipeline.finish()
    }

    /// The report as one JSON object, indented.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}
