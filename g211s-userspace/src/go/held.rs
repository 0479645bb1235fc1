//! Where the kernel side finds a thread's goroutine, its M and its P: offsets out of the table, and those
//! that only the runtime's own code tells. Must not know processes, nor what is done with them.

use g211s_ebpf::config::GoLayout;

use super::Binary;
use super::offsets::Offsets;
use crate::elf::moves::{copied_to, thread_slot};

/// Reads a thread's g in its first instructions (Go `src/runtime/asm_amd64.s`).
const MORESTACK: &str = "runtime.morestack";
/// Copies `p.syscalltick` to `m.syscalltick` (Go `src/runtime/proc.go`).
const REENTERSYSCALL: &str = "runtime.reentersyscall";

/// All offsets.
///
/// # Errors
/// What is not known.
pub fn layout(binary: &Binary, offsets: &Offsets) -> Result<GoLayout, String> {
    let field = |strukt: &str, field: &str| {
        let found = offsets.field(strukt, field);
        found.map(|f| f.off).ok_or_else(|| format!("no field {strukt}.{field} is known"))
    };
    let p_syscalltick = field("runtime.p", "syscalltick")?;
    let code = |name: &str| {
        let functions = binary.functions.resolve(&[name]);
        let function = functions.get(name).and_then(|found| found.first());
        let function = function.ok_or_else(|| format!("the executable has no function {name}"))?;
        let code = binary.code(function).map_err(|e| format!("{name}: {e}"))?;
        Ok::<_, String>((code, function.entry))
    };
    let unlike = |name: &str| format!("{name} looks otherwise than in the known versions");
    let (morestack, at) = code(MORESTACK)?;
    let tls_g = thread_slot(morestack.bytes(), at).ok_or_else(|| unlike(MORESTACK))?;
    let (reentersyscall, at) = code(REENTERSYSCALL)?;
    let m_syscalltick = copied_to(reentersyscall.bytes(), at, p_syscalltick)
        .ok_or_else(|| unlike(REENTERSYSCALL))?;
    let (m_p, m_oldp) = (field("runtime.m", "p")?, field("runtime.m", "oldp")?);
    // The kernel side reads them at once.
    if m_oldp != m_p + 16 {
        return Err(format!("runtime.m's p and oldp are at {m_p} and {m_oldp}, not side by side"));
    }
    Ok(GoLayout {
        tls_g,
        g_goid: field("runtime.g", "goid")?,
        g_m: field("runtime.g", "m")?,
        m_p,
        m_oldp,
        m_syscalltick,
        p_syscalltick,
        p_id: field("runtime.p", "id")?,
        p_m: field("runtime.p", "m")?,
        p_runqhead: field("runtime.p", "runqhead")?,
        p_runqtail: field("runtime.p", "runqtail")?,
        p_runnext: field("runtime.p", "runnext")?,
        m_procid: if binary.cgo { field("runtime.m", "procid")? } else { 0 },
        pad: 0,
    })
}
