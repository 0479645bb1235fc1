//! Gives up every capability that the agent does not need once it runs. Must not know why it needs them.
//!
//! Uprobes take `CAP_PERFMON` up to Linux 6.15, and `CAP_SYS_ADMIN` from 6.16 on and in the stable updates that took the
//! same change (`kernel/events/core.c`, `perf_uprobe_event_init`: "perf: Revert to requiring `CAP_SYS_ADMIN` for
//! uprobes"). Which it is here is found by trying.
//!
//! `capset(2)` acts on the calling thread; threads made later inherit from it. So this is to be called before there
//! are others.

use std::io;

/// `linux/capability.h`
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of each set.
const VERSION_3: u32 = 0x2008_0522;
/// `PR_CAP_AMBIENT`, `PR_CAP_AMBIENT_CLEAR_ALL`.
const PR_CAP_AMBIENT: i32 = 47;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;

/// What attaching to processes that come later takes.
const NEEDED: [u32; 4] = [CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH];

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn get() -> io::Result<[Data; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Data::default(); 2];
    // SAFETY: capget(2) reads the header and writes two `Data`, which is what version 3 has.
    let done =
        unsafe { nix::libc::syscall(nix::libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    if done == 0 { Ok(data) } else { Err(io::Error::last_os_error()) }
}

fn set(data: [Data; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: capset(2) reads both; a capability that is not there is not asked for.
    let done = unsafe { nix::libc::syscall(nix::libc::SYS_capset, &raw mut header, data.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn has(data: &[Data; 2], capability: u32) -> bool {
    data[(capability / 32) as usize].permitted & (1 << (capability % 32)) != 0
}

/// What is kept of what there is: what is needed, and `CAP_SYS_ADMIN` as far as it is asked for.
fn kept(before: &[Data; 2], admin: Admin) -> [Data; 2] {
    let mut after = [Data::default(); 2];
    let wanted = NEEDED.into_iter().chain((admin != Admin::GivenUp).then_some(CAP_SYS_ADMIN));
    for capability in wanted.filter(|c| has(before, *c)) {
        let data = &mut after[(capability / 32) as usize];
        data.permitted |= 1 << (capability % 32);
        if capability != CAP_SYS_ADMIN || admin == Admin::Kept {
            data.effective |= 1 << (capability % 32);
        }
    }
    after
}

/// What becomes of `CAP_SYS_ADMIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admin {
    Kept,
    /// Not in effect, but it can be had back.
    Aside,
    GivenUp,
}

/// Gives up what is not needed, for good: nothing that this process starts gets it back. `works` tries whether what is
/// left is enough; if not, `CAP_SYS_ADMIN` stays, and `true` comes back.
///
/// # Errors
/// The kernel refuses.
pub fn drop_all_but_needed(works: impl FnOnce() -> bool) -> io::Result<bool> {
    let before = get()?;
    set(kept(&before, Admin::Aside))?;
    let needs_admin = has(&before, CAP_SYS_ADMIN) && !works();
    set(kept(&before, if needs_admin { Admin::Kept } else { Admin::GivenUp }))?;
    // SAFETY: prctl(2) with numbers alone. They are refused by kernels that do not have them, which is as good.
    unsafe {
        nix::libc::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        nix::libc::prctl(nix::libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    Ok(needs_admin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_kept_and_nothing_else() {
        let all = [Data { effective: !0, permitted: !0, inheritable: !0 }; 2];
        let after = kept(&all, Admin::GivenUp);
        assert_eq!((after[0].permitted, after[1].permitted), (1 << 2 | 1 << 19, 1 << 6 | 1 << 7));
        assert_eq!((after[0].effective, after[0].inheritable), (after[0].permitted, 0));
        assert_eq!(
            kept(&[Data::default(); 2], Admin::Kept)[0].permitted,
            0,
            "none comes into being"
        );
        let aside = kept(&all, Admin::Aside)[0];
        assert_eq!(
            (aside.permitted, aside.effective),
            (1 << 2 | 1 << 19 | 1 << 21, 1 << 2 | 1 << 19)
        );
        assert_eq!(kept(&all, Admin::Kept)[0].effective, 1 << 2 | 1 << 19 | 1 << 21);
    }

    #[test]
    fn a_thread_that_gave_them_up_has_them_no_more() {
        for works in [true, false] {
            let thread = move || {
                let before = get().expect("capget");
                let admin = drop_all_but_needed(|| works).expect("capset");
                assert_eq!(admin, !works && has(&before, CAP_SYS_ADMIN));
                let after = get().expect("capget");
                for capability in 0..41 {
                    let is_kept =
                        NEEDED.contains(&capability) || (capability == CAP_SYS_ADMIN && admin);
                    assert!(has(&before, capability) || !has(&after, capability));
                    assert!(is_kept || !has(&after, capability), "{capability}");
                }
            };
            std::thread::spawn(thread).join().expect("no panic");
        }
    }
}
