//! g211s: says why a running Go service stalls. See ARCHITECTURE.md for the map.

pub mod account;
pub mod agent;
pub mod allocs;
pub mod analysis;
pub mod bpf;
pub mod census;
pub mod cli;
pub mod daemon;
pub mod doctor;
pub mod elf;
pub mod event;
pub mod export;
pub mod go;
pub mod governor;
pub mod heap;
pub mod html;
pub mod leaks;
pub mod model;
pub mod order;
pub mod profile;
pub mod ps;
pub mod record;
pub mod recording;
pub mod report;
pub mod runtime;
pub mod target;
