//! See `inputs::symbols`.
#![no_main]
#![allow(dead_code, reason = "one target uses one of the inputs")]

#[path = "../inputs.rs"]
mod inputs;

libfuzzer_sys::fuzz_target!(|input: &[u8]| inputs::symbols(input));
