//! `g211s allocs`: who allocates, sampled within a budget of the target's CPU time. `command` is the run, `budget` decides
//! what is attached, `decode` makes samples of events, `model` takes the stream of records (of a run or of a
//! file) and `schema` and `text` say what came of it.

mod attached;
pub mod budget;
pub mod collections;
pub mod command;
pub mod decode;
mod forecast;
mod marks;
pub mod model;
pub mod observer;
pub mod output;
pub mod rows;
pub mod schema;
pub mod text;
pub mod totals;
