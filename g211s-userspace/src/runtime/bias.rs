//! What was added to the addresses of an executable when a process loaded it. Must not know Go.
//!
//! Two independent sources, which have to agree where both can be read: the mappings, and the entry
//! point that the kernel handed to the process (`AT_ENTRY`, `proc_pid_auxv(5)`).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use crate::go::Binary;
use crate::target::procfs::Procfs;

/// Most bytes of a process's list of mappings that are read.
const MAX_MAPS: u64 = 64 << 20;
/// Most bytes of its auxiliary vector.
const MAX_AUXV: u64 = 4096;
const AT_ENTRY: u64 = 9;
const PAGE: u64 = 4096;

/// The load bias, or why it is not known. Of an executable that is not position independent it is 0.
pub fn load_bias(procfs: &Procfs, pid: u32, binary: &Binary) -> Result<u64, String> {
    if !binary.is_pie() {
        return Ok(0);
    }
    let (exe, deleted) = procfs.exe(pid).map_err(|e| format!("cannot read its exe link: {e}"))?;
    let exe = if deleted { format!("{exe} (deleted)") } else { exe };
    let maps = File::open(procfs.path(pid, "maps"))
        .map_err(|e| format!("cannot read its mappings: {e}"))?;
    let segments = binary.load_segments();
    let by_maps = BufReader::new(maps.take(MAX_MAPS))
        .lines()
        .map_while(Result::ok)
        .find_map(|line| bias_of(&line, &exe, &segments));
    let by_entry = entry(procfs, pid).map(|entry| entry.wrapping_sub(binary.entry()));
    match (by_maps, by_entry) {
        (Some(a), Some(b)) if a != b => {
            Err(format!("its mappings say {a:#x}, its entry point says {b:#x}"))
        }
        (Some(bias), _) | (None, Some(bias)) if bias % PAGE == 0 => Ok(bias),
        (None, None) => Err("its executable is not among its mappings".to_owned()),
        _ => Err("not a multiple of the page size".to_owned()),
    }
}

/// What a mapping of the executable says: its file offset names the segment.
fn bias_of(line: &str, exe: &str, segments: &[(u64, u64)]) -> Option<u64> {
    // address perms offset dev inode, then the path after many spaces; newlines in it are escaped.
    let mut rest = line;
    let mut fields = [""; 5];
    for field in &mut fields {
        let (word, after) = rest.split_once(' ')?;
        (*field, rest) = (word, after);
    }
    if exe.is_empty() || rest.trim_start_matches(' ').replace("\\012", "\n") != exe {
        return None;
    }
    let start = u64::from_str_radix(fields[0].split_once('-')?.0, 16).ok()?;
    let offset = u64::from_str_radix(fields[2], 16).ok()?;
    let &(va, _) = segments.iter().find(|(_, o)| o / PAGE * PAGE == offset)?;
    start.checked_sub(va / PAGE * PAGE)
}

fn entry(procfs: &Procfs, pid: u32) -> Option<u64> {
    let mut bytes = Vec::new();
    File::open(procfs.path(pid, "auxv")).ok()?.take(MAX_AUXV).read_to_end(&mut bytes).ok()?;
    let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or_default();
    bytes
        .chunks_exact(16)
        .map(|pair| (word(&pair[..8]), word(&pair[8..])))
        .find(|(kind, _)| *kind == AT_ENTRY)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_of_the_executable_says_the_bias() {
        let segments = [(0, 0), (0x1000, 0x1000), (0x5_2000, 0x5_1000)];
        let line = "55d0c8a01000-55d0c8b00000 r-xp 00001000 fd:01 77   /opt/my svc";
        assert_eq!(bias_of(line, "/opt/my svc", &segments), Some(0x55d0_c8a0_0000));
        assert_eq!(bias_of(line, "/opt/other", &segments), None);
        let data = "55d0c8a52000-55d0c8b00000 rw-p 00051000 fd:01 77   /opt/my svc";
        assert_eq!(bias_of(data, "/opt/my svc", &segments), Some(0x55d0_c8a0_0000));
        assert_eq!(bias_of("c000000000-c000400000 rw-p 00000000 00:00 0 ", "", &segments), None);
        assert_eq!(bias_of("x", "", &segments), None);
        let gone = "55d0c8a01000-55d0c8b00000 r-xp 00001000 fd:01 77   /opt/svc (deleted)";
        assert!(bias_of(gone, "/opt/svc (deleted)", &segments).is_some());
    }
}
