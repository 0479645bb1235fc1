//! Whether a process's runtime asks running goroutines to stop by a signal. Must not know what follows from
//! that.
//!
//! `preemptone` and `suspendG` (Go `src/runtime/proc.go`, `preempt.go`, 1.14 to 1.27) look at
//! `debug.asyncpreemptoff`, a 32-bit number, before they send one: the only such that both compare with 0.

use std::collections::BTreeSet;

use super::memory::{Memory, ProcessMemory};
use crate::elf::refs::{Access, references};
use crate::go::Binary;
use crate::target::procfs::Procfs;

/// The functions that look.
const READERS: [&str; 2] = ["runtime.preemptone", "runtime.suspendG"];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsyncPreemption {
    /// Whether signals are sent.
    pub on: bool,
    /// How that is known.
    pub why: String,
}

/// Looks whether `pid` preempts by signals: in its memory, else in the environment that it was started with.
pub fn async_preemption(
    procfs: &Procfs,
    pid: u32,
    binary: &Binary,
    bias: Option<u64>,
) -> AsyncPreemption {
    let in_memory =
        bias.ok_or_else(|| "its load address is not known".to_owned()).and_then(|bias| {
            let at = place(binary)?.checked_add(bias).ok_or("an address out of range")?;
            let memory = ProcessMemory::open(procfs, pid).map_err(|e| e.to_string())?;
            let mut value = [0; 4];
            memory.read(at, &mut value).map_err(|e| e.to_string())?;
            Ok(i32::from_le_bytes(value))
        });
    match in_memory {
        // Read from the environment at start, a small number (Go runtime/runtime1.go, `parsegodebug`).
        Ok(off) => AsyncPreemption { on: off == 0, why: format!("asyncpreemptoff is {off}") },
        Err(why) => {
            let environ = std::fs::read(procfs.path(pid, "environ")).unwrap_or_default();
            let off = is_off(&environ);
            let says = if off { "has asyncpreemptoff=1" } else { "does not turn it off" };
            AsyncPreemption { on: !off, why: format!("GODEBUG {says} ({why})") }
        }
    }
}

/// Where `debug.asyncpreemptoff` is, before the load bias.
fn place(binary: &Binary) -> Result<u64, String> {
    let mut common: Option<BTreeSet<u64>> = None;
    for name in READERS {
        let function = binary.functions.with_prefix(name).find(|f| f.name == name.as_bytes());
        let function = function.ok_or_else(|| format!("the executable has no {name}"))?;
        let code = binary.code(&function).map_err(|e| format!("{name}: {e}"))?;
        let compared = references(code.bytes(), function.entry).named.into_iter();
        let compared = compared
            .filter(|r| r.size == 4 && r.access == Access::Read && r.constant == Some(0))
            .map(|r| r.target)
            .collect();
        common = Some(common.map_or_else(|| BTreeSet::clone(&compared), |c| &c & &compared));
    }
    let mut common = common.unwrap_or_default().into_iter();
    match (common.next(), common.next()) {
        (Some(at), None) => Ok(at),
        _ => Err("the code that looks at it looks otherwise than in the known versions".to_owned()),
    }
}

/// Whether an environment turns it off. A later setting wins (Go runtime/runtime1.go, `parsegodebug`).
fn is_off(environ: &[u8]) -> bool {
    let value = environ.split(|&b| b == 0).find_map(|v| v.strip_prefix(b"GODEBUG="));
    let settings = value.unwrap_or_default().rsplit(|&b| b == b',');
    let mut values = settings.filter_map(|s| s.strip_prefix(b"asyncpreemptoff="));
    values.next().is_some_and(|v| v != b"0" && !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_it() {
        assert!(is_off(b"A=1\0GODEBUG=gctrace=1,asyncpreemptoff=1\0B=2\0"));
        assert!(!is_off(b"A=1\0GODEBUG=asyncpreemptoff=1,asyncpreemptoff=0\0"));
        assert!(!is_off(b"XGODEBUG=asyncpreemptoff=1\0GODEBUG=gctrace=1\0"));
        assert!(!is_off(b""));
    }

    #[test]
    fn without_the_functions_the_environment_tells() {
        let binary = Binary::load(crate::elf::fixture::go_elf(false)).expect("loads");
        let found = async_preemption(&Procfs::default(), std::process::id(), &binary, Some(0));
        assert!(found.on && found.why.contains("runtime.preemptone"), "{found:?}");
    }
}
