//! The ABI between the kernel side and user space: every byte that crosses the boundary is
//! defined here, once, as `repr(C)` types without padding.
//!
//! This library must not know: aya, maps, how events are transported, or what they mean for a
//! verdict. It builds for both `bpfel-unknown-none` and the host; on the host the types
//! derive zerocopy's traits, and `IntoBytes` rejects hidden padding at compile time.
//!
//! Changing a type here changes the recording format: bump [`ABI_VERSION`].
#![no_std]

/// Version of everything in this crate that is recorded to disk.
pub const ABI_VERSION: u16 = 2;

pub mod config;
pub mod counters;
pub mod event;
pub mod hist;
pub mod series;
pub mod state;
