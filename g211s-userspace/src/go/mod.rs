//! What a Go executable is: version, how it was built, its functions. Computed once per executable,
//! shared by every process of it. Must not know processes, nor what is done with a probe.

use std::sync::OnceLock;

use crate::elf::buildinfo::BuildInfo;
use crate::elf::pclntab::{Function, Pclntab};
use crate::elf::sites::{FunctionCode, MAX_CODE, SiteError};
use crate::elf::symbols::{Paused, Symbols};
use crate::elf::{EM_X86_64, ElfError, ElfFile, ReadAt};

pub mod globals;
pub mod held;
pub mod offsets;
pub mod plan;
pub mod version;

use globals::Globals;
use offsets::Offsets;
use version::GoVersion;

/// The oldest minor version that is supported: the frame pointer is pushed first and
/// `stopTheWorldWithSema` takes a reason since 1.21.
pub const OLDEST_MINOR: u32 = 21;
/// The newest minor version whose runtime was read and measured.
pub const NEWEST_CHECKED_MINOR: u32 = 27;

/// Why an executable cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// No ELF file, or one of a kind that is not read, or malformed.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// No build information.
    #[error("not a Go executable (it has no Go build information)")]
    NotGo,
    /// Go, but of another machine.
    #[error("built for another machine (ELF machine {0}); only x86-64 is supported")]
    NotX86(u16),
    /// Go, but so old that not even its build information is read.
    #[error("built with {0}; g211s reads executables of Go 1.18 and later")]
    TooOld(String),
}

/// Why nothing is known of the Go runtime in an executable: then nothing in it is probed or read, while
/// what the kernel says of its threads is as good as ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownRuntime {
    /// Too old.
    #[error("built with {0}; the Go runtime is known to g211s from Go 1.{OLDEST_MINOR} on")]
    TooOld(String),
    /// A version that is not understood: removed by an obfuscator, or a toolchain of its own.
    #[error("built with an unknown Go version `{0}`, so that nothing is known of its runtime")]
    Version(String),
}

/// A Go executable.
#[derive(Debug)]
pub struct Binary {
    elf: ElfFile,
    /// What the linker wrote about the build.
    pub build: BuildInfo,
    /// `build.go_version`, parsed; 0.0.0 where it is not understood ([`Self::known_runtime`]).
    pub version: GoVersion,
    /// Its function table.
    pub functions: Pclntab,
    /// The symbol table is gone (`-ldflags=-s`, `strip`).
    pub stripped: bool,
    /// DWARF is there.
    pub has_dwarf: bool,
    /// It contains `runtime/cgo`: threads that Go did not make can call into it.
    pub cgo: bool,
    /// See [`Self::runtime_places`].
    places: OnceLock<(Offsets, Globals)>,
}

impl Binary {
    /// Reads an executable. Takes milliseconds, also for large ones: the line tables stay on disk.
    pub fn load(source: impl ReadAt + 'static) -> Result<Self, BinaryError> {
        let elf = ElfFile::open(source)?;
        let build = match BuildInfo::read(&elf) {
            Ok(build) => build,
            Err(ElfError::Missing(_)) => return Err(BinaryError::NotGo),
            Err(ElfError::Unsupported(_)) => {
                return Err(BinaryError::TooOld("Go 1.17 or older".to_owned()));
            }
            Err(e) => return Err(e.into()),
        };
        let version = GoVersion::parse(&build.go_version).unwrap_or_default();
        if elf.machine != EM_X86_64 {
            return Err(BinaryError::NotX86(elf.machine));
        }
        let functions = match Pclntab::read(&elf) {
            // Of an old or changed toolchain, in a form of its own: nothing in it is looked for.
            Err(_) if !version.at_least(OLDEST_MINOR) => Pclntab::default(),
            found => found?,
        };
        let cgo = functions.with_prefix("runtime/cgo.").next().is_some();
        Ok(Self {
            stripped: !elf.has_symtab(),
            has_dwarf: elf.has_dwarf(),
            cgo,
            elf,
            build,
            version,
            functions,
            places: OnceLock::new(),
        })
    }

    /// Where the runtime's structs have their fields, and where its variables are. The first call reads all of the
    /// runtime's code, which takes some 50 ms of CPU; what it finds is kept.
    pub fn runtime_places(&self) -> &(Offsets, Globals) {
        self.places.get_or_init(|| {
            let offsets = Offsets::for_binary(self);
            let globals = Globals::find(self, &offsets);
            (offsets, globals)
        })
    }

    /// Whether anything is known of the Go runtime in it.
    ///
    /// # Errors
    /// Why not.
    pub fn known_runtime(&self) -> Result<(), UnknownRuntime> {
        let version = || self.build.go_version.clone();
        if self.version == GoVersion::default() {
            return Err(UnknownRuntime::Version(version()));
        }
        if !self.version.at_least(OLDEST_MINOR) {
            return Err(UnknownRuntime::TooOld(version()));
        }
        Ok(())
    }

    /// How it was linked, in words: `plain` or `stripped`, then `pie` or `static-pie`, `cgo`, `race`
    /// and a build mode other than `exe` and `pie`, where they apply.
    pub fn link_mode(&self) -> Vec<String> {
        let mut words = vec![if self.stripped { "stripped" } else { "plain" }];
        if self.is_static_pie() {
            words.push("static-pie");
        } else if self.is_pie() {
            words.push("pie");
        }
        if self.cgo {
            words.push("cgo");
        }
        if self.build.setting("-race") == Some("true") {
            words.push("race");
        }
        match self.build_mode() {
            Some("exe" | "pie") | None => {}
            Some(other) => words.push(other),
        }
        words.into_iter().map(str::to_owned).collect()
    }

    /// Whether it is loaded at an address chosen by the kernel.
    pub fn is_pie(&self) -> bool {
        self.elf.is_dyn
    }

    /// Whether it is a PIE that needs no dynamic loader.
    pub fn is_static_pie(&self) -> bool {
        self.elf.is_dyn && !self.elf.has_interp()
    }

    /// Where it is entered, before the load bias.
    pub fn entry(&self) -> u64 {
        self.elf.entry
    }

    /// Its loaded segments: virtual address, offset in the file.
    pub fn load_segments(&self) -> Vec<(u64, u64)> {
        let loads = self.elf.segments.iter().filter(|s| s.is_load());
        loads.map(|s| (s.va, s.offset)).collect()
    }

    /// The file.
    pub(crate) fn elf(&self) -> &ElfFile {
        &self.elf
    }

    /// `-buildmode`, where built in.
    pub fn build_mode(&self) -> Option<&str> {
        self.build.setting("-buildmode")
    }

    /// Its line tables, for look-ups by address.
    pub fn symbols(&self) -> Symbols<'_> {
        Symbols::new(&self.elf, &self.functions)
    }

    /// The same, with what was found out before in this executable.
    pub fn resume_symbols(&self, paused: Paused) -> Symbols<'_> {
        Symbols::resume(&self.elf, &self.functions, paused)
    }

    /// Reads a function's machine code for [`decode`](FunctionCode::decode). Fails where it does not
    /// lie in one executable segment.
    pub fn code(&self, function: &Function<'_>) -> Result<Code, BinaryError> {
        let len = function.end - function.entry;
        let file_offset = self
            .elf
            .file_offset(function.entry)
            .filter(|_| self.elf.is_text(function.entry, len))
            .ok_or(ElfError::Malformed("a function lies outside of the executable segments"))?;
        let bytes = self.elf.read_va(function.entry, len, MAX_CODE, "a function")?;
        Ok(Code { bytes, va: function.entry, file_offset })
    }
}

/// A function's machine code.
#[derive(Debug)]
pub struct Code {
    bytes: Vec<u8>,
    va: u64,
    file_offset: u64,
}

impl Code {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Decodes it from end to end.
    pub fn decode(&self) -> Result<FunctionCode<'_>, SiteError> {
        FunctionCode::decode(&self.bytes, self.va, self.file_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::fixture;

    #[test]
    fn a_go_executable_loads() {
        let binary = Binary::load(fixture::go_elf(true)).expect("loads");
        assert_eq!(binary.version.minor, 27);
        assert_eq!(binary.link_mode(), ["stripped", "static-pie"]);
        assert!(!binary.cgo);
    }

    #[test]
    fn refusals_name_the_reason() {
        let replaced = |from: &[u8], to: &[u8]| {
            let mut b = fixture::go_elf(false);
            let at = b.windows(from.len()).position(|w| w == from).expect("is there");
            b[at..at + to.len()].copy_from_slice(to);
            Binary::load(b)
        };
        let old = replaced(b"go1.27.3", b"go1.20.3").expect("loads").known_runtime();
        assert_eq!(old, Err(UnknownRuntime::TooOld("go1.20.3".to_owned())));
        let garbled = replaced(b"go1.27.3", b"unknown ").expect("loads");
        assert!(matches!(garbled.known_runtime(), Err(UnknownRuntime::Version(_))));
        assert!(plan::plan(&garbled, &plan::PlanOptions::default()).is_err());
        assert!(matches!(replaced(b" Go buildinf:", b"x"), Err(BinaryError::NotGo)));
        let mut arm = fixture::go_elf(false);
        arm[18] = 183;
        assert!(matches!(Binary::load(arm), Err(BinaryError::NotX86(183))));
    }
}
