//! What the runtime itself counts of its allocations, read from the target's memory. Must not know samples.

use crate::go::globals::Global;
use crate::record::AllocTotals;
use crate::runtime::memory::Memory;
use crate::runtime::{Feature, Runtime, RuntimeError};

/// Bytes of the objects of each size class (Go `runtime/sizeclasses.go`, since 1.26
/// `internal/runtime/gc/sizeclasses.go`: the same in 1.21.13, 1.24.11 and 1.27.3). Each sample's own span tells its size; this is
/// for classes that were counted and not sampled.
pub const CLASS_SIZES: [u64; 68] = [
    0, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320,
    352, 384, 416, 448, 480, 512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792,
    2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5376, 6144, 6528, 6784, 6912, 8192, 9472, 9728,
    10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760, 24576, 27264, 28672,
    32768,
];

/// Readings that are thrown away for one.
const RETRIES: u32 = 8;
const DELTA: &str = "runtime.heapStatsDelta";
const MSTATS: &str = "runtime.mstats";

/// Reads the counts.
///
/// Each of the three parts of `memstats.heapStats` is added to by Ps; now and then (for
/// `runtime.ReadMemStats` and `runtime/metrics`) one is added to the next and cleared, and `gen` moves on. What was
/// read while that happened is thrown away.
///
/// # Errors
/// What is not known in this Go version, or could not be read.
pub fn read<M: Memory>(runtime: &Runtime<M>) -> Result<AllocTotals, String> {
    runtime.usable(Feature::Heap)?;
    let say = |e: RuntimeError| e.to_string();
    let whole = runtime.offsets().size_of(DELTA).unwrap_or(0) as usize;
    if whole == 0 {
        return Err(format!("{DELTA} is not known in this Go version"));
    }
    let generation = || runtime.u64(Global::Memstats, MSTATS, "heapStats.gen").map_err(say);
    for _ in 0..RETRIES {
        let before = generation()?;
        let stats = runtime.bytes(Global::Memstats, MSTATS, "heapStats.stats").map_err(say)?;
        if generation()? != before {
            continue;
        }
        if stats.len() != 3 * whole {
            return Err(format!(
                "the runtime's counts have {} bytes, not 3 x {whole}",
                stats.len()
            ));
        }
        let field = |name: &str| runtime.field(DELTA, name).map_err(say);
        let sum = |at: usize| {
            stats.chunks_exact(whole).fold(0_u64, |sum, part| {
                let word = part.get(at..at + 8).and_then(|w| w.try_into().ok());
                sum.wrapping_add(word.map_or(0, u64::from_le_bytes))
            })
        };
        let number = |name: &str| field(name).map(|f| sum(f.off as usize));
        let classes = field("smallAllocCount")?;
        let small = (0..(classes.size as usize / 8).min(CLASS_SIZES.len()))
            .map(|class| (class as u8, sum(classes.off as usize + 8 * class)))
            .filter(|(_, n)| *n > 0)
            .collect();
        return Ok(AllocTotals {
            small,
            large: number("largeAllocCount")?,
            large_bytes: number("largeAlloc")?,
            tiny: number("tinyAllocCount")?,
        });
    }
    Err("the runtime's counts were being added up at each look".to_owned())
}
