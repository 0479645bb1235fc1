//! g211s: says why a running Go service stalls. See ARCHITECTURE.md for the map.

pub mod analysis;
pub mod event;
pub mod model;
pub mod order;
pub mod record;
pub mod report;
