//! The build information that the Go linker puts into every executable: version, module and build
//! settings. Must not know what a version means (see `go::version`).
//!
//! Format: Go `src/debug/buildinfo/buildinfo.go`, `readRawBuildInfo` (1.27.3): a 32-byte header
//! aligned to 16, then (flag bit 1, Go 1.18+) two strings with varint lengths.

use std::fs::File;

use super::{ElfError, ElfFile};

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
const HEADER_LEN: u64 = 32;
const ALIGN: u64 = 16;
const FLAGS: usize = 15;
const FLAG_INLINE: u8 = 2;
const MAX_VERSION: u64 = 1024;
const MAX_MODINFO: u64 = 16 << 20;
/// The module text stands between two 16-byte sentinels (`cmd/go/internal/modload`, infoStart/End).
const SENTINEL: usize = 16;

/// What `go version -m` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildInfo {
    /// `runtime.buildVersion`, e.g. `go1.27.3` or `go1.27.3-X:boringcrypto`.
    pub go_version: String,
    /// Import path of the main package, where built in.
    pub path: Option<String>,
    /// Path of the main module, where built in.
    pub module: Option<String>,
    /// Version of the main module, e.g. `(devel)` or `v1.2.3`.
    pub module_version: Option<String>,
    /// Build settings such as `-buildmode`, `CGO_ENABLED`, `-ldflags`, `vcs.revision`.
    pub settings: Vec<(String, String)>,
}

impl BuildInfo {
    /// Finds and reads it: `.go.buildinfo`, else a scan of the data segments.
    /// [`ElfError::Missing`] means that this is no Go executable (or one from before 1.13).
    pub fn read(elf: &ElfFile) -> Result<Self, ElfError> {
        if let Some(section) = elf.section(".go.buildinfo") {
            return Self::read_at(elf, section.va);
        }
        // Only the writable data, as Go's own reader does: a program that looks for the magic (this
        // one) has it among its constants.
        let mut found = None;
        elf.scan_data(MAGIC, ALIGN, true, |va| {
            found = Self::read_at(elf, va).ok();
            found.is_some()
        })?;
        found.ok_or(ElfError::Missing("Go build information"))
    }

    /// That of a program's executable; `None`: it is no Go program, or none that says so. Looks no further than it must,
    /// since it is asked of every process.
    pub fn of_program(file: File) -> Option<Self> {
        // Whoever links a Go program writes this section; without section headers it must be searched for.
        let elf = ElfFile::open(file).ok()?;
        if !elf.sections.is_empty() && elf.section(".go.buildinfo").is_none() {
            return None;
        }
        Self::read(&elf).ok()
    }

    fn read_at(elf: &ElfFile, va: u64) -> Result<Self, ElfError> {
        let header = elf.read_va(va, HEADER_LEN, HEADER_LEN, "the build information")?;
        if !header.starts_with(MAGIC) {
            return Err(ElfError::Missing("Go build information"));
        }
        if header[FLAGS] & FLAG_INLINE == 0 {
            // Pointers to Go strings: written by Go 1.13 to 1.17.
            return Err(ElfError::Unsupported("build information of Go 1.17 or older"));
        }
        let (version, next) = read_string(elf, va + HEADER_LEN, MAX_VERSION)?;
        let (modinfo, _) = read_string(elf, next, MAX_MODINFO)?;
        let go_version = String::from_utf8(version)
            .map_err(|_| ElfError::Malformed("the Go version is not text"))?;
        if go_version.is_empty() {
            return Err(ElfError::Malformed("the Go version is empty"));
        }
        let mut info = Self { go_version, ..Self::default() };
        let n = modinfo.len();
        if n > 2 * SENTINEL && modinfo[n - SENTINEL - 1] == b'\n' {
            info.parse_modinfo(&String::from_utf8_lossy(&modinfo[SENTINEL..n - SENTINEL]));
        }
        Ok(info)
    }

    // Go `src/runtime/debug/mod.go`, `ParseBuildInfo`: tab-separated lines.
    fn parse_modinfo(&mut self, text: &str) {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        for line in text.lines() {
            let mut words = line.split('\t');
            match words.next() {
                Some("path") => self.path = words.next().and_then(some),
                Some("mod") => {
                    self.module = words.next().and_then(some);
                    self.module_version = words.next().and_then(some);
                }
                Some("build") => {
                    let setting = line.strip_prefix("build\t").and_then(|s| s.split_once('='));
                    if let Some((key, value)) = setting {
                        self.settings.push((unquote(key), unquote(value)));
                    }
                }
                _ => {}
            }
        }
    }

    /// The value of a build setting.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// A string with its varint length, and the address after it.
fn read_string(elf: &ElfFile, va: u64, limit: u64) -> Result<(Vec<u8>, u64), ElfError> {
    let head = elf.read_va(va, elf.extent(va).min(10), 10, "a length")?;
    let (mut len, mut used) = (0_u64, 0);
    for byte in &head {
        let shift = 7 * used;
        if shift >= 63 {
            break;
        }
        len |= u64::from(byte & 0x7f) << shift;
        used += 1;
        if byte & 0x80 == 0 {
            let start = va + used;
            let bytes = elf.read_va(start, len, limit, "a build information string");
            // An empty string at the very end of a segment has no address of its own.
            let bytes = if len == 0 { Vec::new() } else { bytes? };
            return Ok((bytes, start.saturating_add(len)));
        }
    }
    Err(ElfError::Malformed("a string length in the build information"))
}

/// Undoes Go's `strconv.Quote` as far as build settings use it (`\"` and `\\`).
fn unquote(s: &str) -> String {
    let Some(inner) = s.strip_prefix('"').and_then(|s| s.strip_suffix('"')) else {
        return s.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn reads_version_module_and_settings() {
        for pie in [false, true] {
            let elf = ElfFile::open(fixture::go_elf(pie)).expect("fixture parses");
            let info = BuildInfo::read(&elf).expect("has build info");
            assert_eq!(info.go_version, "go1.27.3");
            assert_eq!(info.path.as_deref(), Some("example.com/tiny/cmd"));
            assert_eq!(info.module.as_deref(), Some("example.com/tiny"));
            assert_eq!(info.module_version.as_deref(), Some("v1.2.3"));
            assert_eq!(info.setting("CGO_ENABLED"), Some("0"));
            assert_eq!(info.setting("-ldflags"), Some("-X \"a b\""));
            assert_eq!(info.setting("GOAMD64"), None);
        }
    }

    #[test]
    fn a_setting_without_a_value_is_none() {
        let mut info = BuildInfo::default();
        info.parse_modinfo("build\nbuild\t\nbuild\tx\nbuild\ta=b");
        assert_eq!(info.settings, [("a".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn is_found_without_section_headers() {
        let elf = ElfFile::open(fixture::without_sections(fixture::go_elf(false)))
            .expect("fixture parses");
        assert!(elf.sections.is_empty());
        assert_eq!(BuildInfo::read(&elf).expect("scanned").go_version, "go1.27.3");
    }

    #[test]
    fn an_executable_without_it_is_not_go() {
        let mut bytes = fixture::go_elf(false);
        let at = bytes.windows(14).position(|w| w == MAGIC).expect("magic");
        bytes[at] = 0;
        let elf = ElfFile::open(bytes).expect("fixture parses");
        assert!(matches!(BuildInfo::read(&elf), Err(ElfError::Missing(_))));
    }

    #[test]
    fn a_length_beyond_the_limit_is_an_error() {
        let mut bytes = fixture::go_elf(false);
        let at = bytes.windows(14).position(|w| w == MAGIC).expect("magic");
        bytes[at + 32..at + 38].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        let elf = ElfFile::open(bytes).expect("fixture parses");
        assert!(BuildInfo::read(&elf).is_err());
    }
}
