//! Where the Go runtime's global variables are in an executable without symbols: from the function
//! table and the RIP-relative references of the functions that use them. Must not know processes.

use super::Binary;
use super::offsets::Offsets;

/// A global variable of package runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Global {
    /// `sched`, a `schedt`.
    Sched,
    /// `memstats`, an `mstats`.
    Memstats,
    /// `gcController`, a `gcControllerState`.
    GcController,
    /// `mheap_`, an `mheap`.
    Mheap,
    /// `allgs`, a `[]*g`.
    Allgs,
    /// `allglen`, a `uintptr`: the length of `allgs` that a lock-free reader may use.
    Allglen,
    /// `allm`, a `*m`: the head of a list through `m.alllink`.
    Allm,
    /// `allp`, a `[]*p`; its length is `gomaxprocs`, outside of a change.
    Allp,
    /// `work`, a `workType`.
    Work,
    /// `gomaxprocs`, an `int32`.
    Gomaxprocs,
    /// `mbuckets`, a `*bucket`: the runtime's own heap profile.
    Mbuckets,
    /// `MemProfileRate`, an `int`: bytes allocated per sample of it; 0 is off.
    MemProfileRate,
}

impl Global {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Sched,
        Self::Memstats,
        Self::GcController,
        Self::Mheap,
        Self::Allgs,
        Self::Allglen,
        Self::Allm,
        Self::Allp,
        Self::Work,
        Self::Gomaxprocs,
        Self::Mbuckets,
        Self::MemProfileRate,
    ];

    /// Its linker symbol, e.g. `runtime.mheap_`.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Sched => "runtime.sched",
            Self::Memstats => "runtime.memstats",
            Self::GcController => "runtime.gcController",
            Self::Mheap => "runtime.mheap_",
            Self::Allgs => "runtime.allgs",
            Self::Allglen => "runtime.allglen",
            Self::Allm => "runtime.allm",
            Self::Allp => "runtime.allp",
            Self::Work => "runtime.work",
            Self::Gomaxprocs => "runtime.gomaxprocs",
            Self::Mbuckets => "runtime.mbuckets",
            Self::MemProfileRate => "runtime.MemProfileRate",
        }
    }
}

/// What was found in one executable.
#[derive(Clone, Debug)]
pub struct Globals {
    found: Vec<Result<u64, String>>,
}

impl Globals {
    /// Looks for all of them. Never fails as a whole: what was not found says why.
    pub fn find(_binary: &Binary, _offsets: &Offsets) -> Self {
        Self { found: Global::ALL.iter().map(|_| Err("not looked for".to_owned())).collect() }
    }

    /// Its link-time virtual address (before a PIE's load bias), or why it is not known.
    pub fn address(&self, g: Global) -> Result<u64, &str> {
        self.found
            .get(g as usize)
            .map_or(Err("not looked for"), |r| r.as_ref().copied().map_err(String::as_str))
    }
}
