//! See `g211s_fuzz::memory`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| g211s_fuzz::memory(input));
