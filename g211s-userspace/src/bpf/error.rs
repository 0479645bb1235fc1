//! Why the kernel side could not be set up, in words that a person can act on.

use std::io;

use aya::programs::ProgramError;

use super::{VMLINUX_BTF, features, kernel_btf};

/// What an old kernel lacks.
pub const NEEDS: &str = "g211s needs 5.15+ (5.8 for the BPF ring buffer, 5.15 for uprobe cookies)";

/// Why the kernel side could not be set up. Each message says what failed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The build has no eBPF object in it.
    #[error(
        "this build of g211s carries no eBPF object: run `cargo xtask setup` and build it again"
    )]
    NoObject,
    /// No BTF.
    #[error(
        "{VMLINUX_BTF}: {0}; g211s needs a kernel built with CONFIG_DEBUG_INFO_BTF=y (most \
         distributions' are)"
    )]
    NoBtf(#[source] io::Error),
    /// BTF that lacks something.
    #[error(transparent)]
    Btf(#[from] kernel_btf::BtfError),
    /// A kernel that lacks what the programs call.
    #[error("kernel {release} refused {what}: {NEEDS}")]
    OldKernel {
        /// Its release.
        release: String,
        /// What was tried.
        what: String,
    },
    /// Refused for want of privileges.
    #[error(
        "the kernel refused {what}: {why}; run g211s as root, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and, \
         for uprobes on kernels from 6.16 on and on updated older ones, CAP_SYS_ADMIN"
    )]
    Privileges {
        /// What was tried.
        what: String,
        /// What the kernel said.
        why: String,
    },
    /// Anything else.
    #[error("{what}: {why}")]
    Other {
        /// What was tried.
        what: String,
        /// What went wrong.
        why: String,
    },
}

pub(super) fn failed(what: impl Into<String>, e: &(dyn std::error::Error + 'static)) -> BpfError {
    let what = what.into();
    let mut why = e.to_string();
    let mut permission = false;
    let mut source = Some(e);
    while let Some(s) = source {
        if let Some(io) = s.downcast_ref::<io::Error>() {
            permission |= io.kind() == io::ErrorKind::PermissionDenied;
        }
        let text = s.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        source = s.source();
    }
    // The verifier's log can be megabytes; its end says what it did not like.
    if let Some(at) = why.char_indices().rev().nth(2000).map(|(at, _)| at) {
        why = format!("… {}", &why[at..]);
    }
    if permission { BpfError::Privileges { what, why } } else { BpfError::Other { what, why } }
}

/// A program did not load. On a kernel that is too old that is the reason, and not the verifier's log,
/// which says it in its own way.
pub(super) fn not_loaded(name: &str, e: &ProgramError) -> BpfError {
    let what = format!("loading {name}");
    let error = failed(what.as_str(), e);
    if matches!(error, BpfError::Other { .. }) && features::kernel_is_old() {
        return BpfError::OldKernel { release: features::release(), what };
    }
    error
}
