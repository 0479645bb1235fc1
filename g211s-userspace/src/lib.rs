//! g211s: says why a running Go service stalls. See ARCHITECTURE.md for the map.

pub mod elf;
pub mod event;
pub mod go;
pub mod record;
pub mod target;
