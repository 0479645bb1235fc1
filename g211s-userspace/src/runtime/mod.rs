//! The Go runtime of a process, read from outside: memory, load bias, offsets and the addresses of
//! its globals, and which of its features were found to be what they should be. Only reads. Must not
//! know what is done with a figure.

use crate::go::Binary;
use crate::go::globals::{Global, Globals};
use crate::go::offsets::{Field, Offsets};

pub mod bias;
pub mod buckets;
mod checks;
pub mod histogram;
pub mod memory;
pub mod preemption;
pub mod sampling;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod types;

use memory::{Memory, MemoryError};

/// Most bytes of one value that is read as a whole.
const MAX_BYTES: usize = 16 << 20;

/// Something that can be read, or not, on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Heap sizes and the collector's goal: `gcController`, `memstats.heapStats`.
    Heap,
    /// Collections and their pauses: `memstats.numgc`, `pause_ns`.
    Gc,
    /// Every goroutine: `allgs`.
    Goroutines,
    /// Every thread of the runtime: `allm`.
    Threads,
    /// Ps and `gomaxprocs`: `allp`.
    Processors,
    /// `sched.timeToRun`: how long goroutines waited to run.
    Latency,
    /// `sched.stwTotalTimeGC` and its kin (Go 1.22+), `memstats.gcPauseDist` (1.21).
    StwHistograms,
    /// Spans and arenas: `mheap_`.
    Spans,
    /// The phases of the current or last cycle: `work`.
    Cycle,
    /// The runtime's own heap profile: `mbuckets`.
    HeapProfile,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Heap,
        Self::Gc,
        Self::Goroutines,
        Self::Threads,
        Self::Processors,
        Self::Latency,
        Self::StwHistograms,
        Self::Spans,
        Self::Cycle,
        Self::HeapProfile,
    ];
}

/// Why something was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The memory could not be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The variable was not found in the executable.
    #[error("{symbol} was not found: {why}", symbol = .global.symbol())]
    Global {
        /// Which.
        global: Global,
        /// Why not.
        why: String,
    },
    /// This Go version has no such field, or it is not known where it lies.
    #[error("no field {strukt}.{field} is known in this Go version")]
    Field {
        /// Its struct.
        strukt: String,
        /// Its name.
        field: String,
    },
    /// A field's size is not one of a number, or a length is beyond reason.
    #[error("a value of {0} bytes is not read")]
    Size(u64),
    /// A list does not end within reason.
    #[error("the list of {0} does not end")]
    Endless(&'static str),
}

/// Sums of `memstats.heapStats`, bytes (mstats.go, `heapStatsDelta`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// Heap memory backed by the operating system.
    pub committed: u64,
    /// Heap memory given back to it.
    pub released: u64,
    /// In spans of objects.
    pub in_heap: u64,
    /// In spans of goroutine stacks.
    pub in_stacks: u64,
}

/// The runtime of one process.
#[derive(Debug)]
pub struct Runtime<M> {
    memory: M,
    bias: u64,
    offsets: Offsets,
    globals: Globals,
    features: Vec<Result<(), String>>,
}

impl<M: Memory> Runtime<M> {
    /// Finds its globals and checks, on the live memory, each feature. `bias` is what was added to
    /// the executable's addresses when it was loaded. Never fails as a whole: see
    /// [`usable`](Self::usable).
    pub fn open(memory: M, binary: &Binary, bias: u64) -> Self {
        let mut this = Self::unchecked(memory, binary, bias);
        this.recheck(binary);
        this
    }

    /// The same without the checks, for who needs few features: see [`check`](Self::check).
    pub fn unchecked(memory: M, binary: &Binary, bias: u64) -> Self {
        let (offsets, globals) = binary.runtime_places().clone();
        Self::with(memory, offsets, globals, bias)
    }

    /// The same with what [`open`](Self::open) finds out of the executable, for several processes of
    /// one. No feature is checked, so none is usable yet: see [`check`](Self::check).
    pub fn with(memory: M, offsets: Offsets, globals: Globals, bias: u64) -> Self {
        let features = Feature::ALL.iter().map(|_| Err("not checked".to_owned())).collect();
        Self { memory, bias, offsets, globals, features }
    }

    /// The same, with every feature believed.
    #[cfg(test)]
    pub(crate) fn trusted(memory: M, offsets: Offsets, globals: Globals, bias: u64) -> Self {
        let features = Feature::ALL.iter().map(|_| Ok(())).collect();
        Self { memory, bias, offsets, globals, features }
    }

    /// Checks each feature again: some can only be proven after the first collection.
    pub fn recheck(&mut self, binary: &Binary) {
        self.check(binary, &Feature::ALL);
    }

    /// Checks some features.
    pub fn check(&mut self, binary: &Binary, features: &[Feature]) {
        self.features.resize_with(Feature::ALL.len(), || Err("not checked".to_owned()));
        for &feature in features {
            let found = checks::check(self, binary, feature);
            if let Some(place) = self.features.get_mut(feature as usize) {
                *place = found;
            }
        }
    }

    /// Whether a feature's figures may be believed, or why not.
    pub fn usable(&self, feature: Feature) -> Result<(), &str> {
        self.features
            .get(feature as usize)
            .map_or(Err("not checked"), |r| r.as_ref().copied().map_err(String::as_str))
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The offsets.
    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// What is added to an address of the file to get one of the process.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// Where a global is in the process.
    pub fn address(&self, global: Global) -> Result<u64, RuntimeError> {
        match self.globals.address(global) {
            Ok(address) => Ok(address.wrapping_add(self.bias)),
            Err(why) => Err(RuntimeError::Global { global, why: why.to_owned() }),
        }
    }

    /// Where a field lies in its struct, e.g. (`runtime.g`, `sched.sp`).
    pub fn field(&self, strukt: &str, field: &str) -> Result<Field, RuntimeError> {
        self.offsets.field(strukt, field).ok_or_else(|| RuntimeError::Field {
            strukt: strukt.to_owned(),
            field: field.to_owned(),
        })
    }

    /// A number of `size` bytes (1, 2, 4 or 8), not sign-extended.
    pub fn number(&self, address: u64, size: u32) -> Result<u64, RuntimeError> {
        let mut buf = [0; 8];
        match size {
            1 | 2 | 4 | 8 => self.memory.read(address, &mut buf[..size as usize])?,
            other => return Err(RuntimeError::Size(u64::from(other))),
        }
        Ok(u64::from_le_bytes(buf))
    }

    /// A `uint64`, `int64`, pointer or `uintptr`.
    pub fn u64_at(&self, address: u64) -> Result<u64, RuntimeError> {
        self.number(address, 8)
    }

    /// A `uint32` or `int32`.
    pub fn u32_at(&self, address: u64) -> Result<u32, RuntimeError> {
        Ok(self.number(address, 4)? as u32)
    }

    /// Bytes.
    pub fn bytes_at(&self, address: u64, len: usize) -> Result<Vec<u8>, RuntimeError> {
        if len > MAX_BYTES {
            return Err(RuntimeError::Size(len as u64));
        }
        let mut buf = vec![0; len];
        self.memory.read(address, &mut buf)?;
        Ok(buf)
    }

    /// A number in a struct that begins at `base`, by the field's own size, not sign-extended.
    pub fn field_at(&self, base: u64, strukt: &str, field: &str) -> Result<u64, RuntimeError> {
        let at = self.field(strukt, field)?;
        self.number(base.wrapping_add(u64::from(at.off)), at.size)
    }

    /// A number in a global struct, e.g. (`Sched`, `runtime.schedt`, `ngsys`), not sign-extended.
    pub fn u64(&self, global: Global, strukt: &str, field: &str) -> Result<u64, RuntimeError> {
        self.field_at(self.address(global)?, strukt, field)
    }

    /// A whole field of a global struct, e.g. an array.
    pub fn bytes(
        &self,
        global: Global,
        strukt: &str,
        field: &str,
    ) -> Result<Vec<u8>, RuntimeError> {
        let at = self.field(strukt, field)?;
        self.bytes_at(self.address(global)?.wrapping_add(u64::from(at.off)), at.size as usize)
    }

    /// A `timeHistogram`: underflow, the counts bucket by bucket, overflow (histogram.go). Its
    /// bounds are those of the `runtime/metrics` histograms.
    pub fn histogram(
        &self,
        global: Global,
        strukt: &str,
        field: &str,
    ) -> Result<Vec<u64>, RuntimeError> {
        let bytes = self.bytes(global, strukt, field)?;
        let part = |name| -> Result<Vec<u64>, RuntimeError> {
            let at = self.field("runtime.timeHistogram", name)?;
            let end = (at.off as usize).saturating_add(at.size as usize);
            let part = bytes.get(at.off as usize..end);
            Ok(checks::words(part.ok_or(RuntimeError::Size(bytes.len() as u64))?))
        };
        let mut counts = part("underflow")?;
        counts.extend(part("counts")?);
        counts.extend(part("overflow")?);
        Ok(counts)
    }

    /// Sums over the generations of `memstats.heapStats`, as `consistentHeapStats.unsafeRead` adds
    /// them; while the process runs, off by what is in flight.
    pub fn heap_stats(&self) -> Result<HeapStats, RuntimeError> {
        let stats = self.bytes(Global::Memstats, "runtime.mstats", "heapStats.stats")?;
        let each = self.offsets.size_of("runtime.heapStatsDelta").unwrap_or(0) as usize;
        if each == 0 || stats.len() != 3 * each {
            return Err(RuntimeError::Size(stats.len() as u64));
        }
        let sum = |name| -> Result<u64, RuntimeError> {
            let at = self.field("runtime.heapStatsDelta", name)?;
            let mut sum = 0_u64;
            for delta in stats.chunks_exact(each) {
                let n = delta.get(at.off as usize..at.off as usize + 8);
                let n = n.and_then(|n| n.try_into().ok()).map(u64::from_le_bytes);
                sum = sum.wrapping_add(n.ok_or(RuntimeError::Size(each as u64))?);
            }
            Ok(sum)
        };
        Ok(HeapStats {
            committed: sum("committed")?,
            released: sum("released")?,
            in_heap: sum("inHeap")?,
            in_stacks: sum("inStacks")?,
        })
    }

    /// The addresses of all `m`s: `allm`, through `m.alllink`.
    pub fn threads(&self) -> Result<Vec<u64>, RuntimeError> {
        let mut all = Vec::new();
        let mut m = self.u64_at(self.address(Global::Allm)?)?;
        while m != 0 {
            if all.len() == checks::MAX_THREADS {
                return Err(RuntimeError::Endless("threads"));
            }
            all.push(m);
            m = self.field_at(m, "runtime.m", "alllink")?;
        }
        Ok(all)
    }
}
