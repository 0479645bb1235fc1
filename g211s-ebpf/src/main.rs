//! The BPF programs. On the host this binary is empty; build it for `bpfel-unknown-none`.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod globals;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod probes;
#[cfg(target_arch = "bpf")]
mod send;

/// The helpers used (probe reads, ring buffer, task registers) are for GPL-compatible programs only; the Rust
/// sources are MIT OR Apache-2.0 as well.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!(
        "g211s-bpf is a BPF object: it is built for bpfel-unknown-none and embedded in g211s"
    );
}
