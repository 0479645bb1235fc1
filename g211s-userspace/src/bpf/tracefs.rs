//! System call tracepoints are named in tracefs, which minimal hosts and containers do not mount.

use std::{io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const TRACEFS: &str = "/sys/kernel/tracing";

/// Makes tracefs visible to this process alone: in a mount namespace of its own, so the
/// host's mount table stays as it is. Nothing is done where it is mounted already. Must run
/// before other threads start.
///
/// # Errors
/// What the kernel said; netpoll is then unavailable, and only that.
pub fn ensure() -> io::Result<()> {
    let mounted = |p: &str| Path::new(p).join("events/syscalls").is_dir();
    if mounted(TRACEFS) || mounted("/sys/kernel/debug/tracing") {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    // The host's later mounts still arrive here; ours do not travel there.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tracefs"), TRACEFS, Some("tracefs"), flags, None::<&str>)?;
    Ok(())
}
