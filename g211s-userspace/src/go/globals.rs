//! Where the Go runtime's global variables are in an executable without symbols. Must not know
//! processes.
//!
//! The function table names the functions, and their code names the variables: each is taken from a
//! place where the runtime's source leaves no doubt (the place is cited), and believed only if a
//! second one, independent of it, agrees. Sources: Go 1.21.13 to 1.27.3, `src/runtime`.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::Binary;
use super::offsets::{Field, Offsets};
use crate::elf::refs::{Access, CallWith, Reference, references};

/// Most functions of package runtime that are looked at (1.27.3 has about 4000).
const MAX_FUNCTIONS: usize = 20_000;
/// Most bytes of their code.
const MAX_BYTES: u64 = 16 << 20;
/// Fewer fields than this prove nothing.
const MIN_FIELDS: usize = 4;
/// What `schedinit` sets `sched.maxmcount` to (proc.go).
const MAX_THREADS: u64 = 10_000;

/// A global variable of package runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// `mProfCycle`, a `uint32`: the heap profile's cycle, times two, and whether it was flushed.
    ProfCycle,
}

impl Global {
    /// All of them.
    pub const ALL: [Self; 13] = [
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
        Self::ProfCycle,
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
            Self::ProfCycle => "runtime.mProfCycle",
        }
    }
}

/// What was found in one executable.
#[derive(Clone, Debug)]
pub struct Globals {
    found: Vec<Result<u64, String>>,
    /// What `(*timeHistogram).record` is called with.
    histograms: BTreeSet<u64>,
}

impl Globals {
    /// Looks for all of them. Never fails as a whole: what was not found says why.
    pub fn find(binary: &Binary, offsets: &Offsets) -> Self {
        let evidence = Evidence::collect(binary, offsets);
        let histograms = evidence.called_with.get("runtime.(*timeHistogram).record");
        Self {
            found: Global::ALL.iter().map(|&g| evidence.locate(g)).collect(),
            histograms: histograms.into_iter().flatten().copied().collect(),
        }
    }

    /// Whether the runtime's code records into a `timeHistogram` at this link-time address: proof
    /// that one lies there.
    pub fn records_at(&self, address: u64) -> bool {
        self.histograms.contains(&address)
    }

    /// Its link-time virtual address (before a PIE's load bias), or why it is not known.
    pub fn address(&self, g: Global) -> Result<u64, &str> {
        self.found
            .get(g as usize)
            .map_or(Err("not looked for"), |r| r.as_ref().copied().map_err(String::as_str))
    }
}

/// What the code of package runtime names.
struct Evidence<'a> {
    offsets: &'a Offsets,
    /// In code order, function by function.
    named: Vec<Reference>,
    /// Function → its part of `named`; two where it has an ABI wrapper of the same name.
    functions: HashMap<String, Vec<Range<usize>>>,
    /// Indices into `named`, by target.
    by_target: Vec<u32>,
    /// Function → the pointers it is called with.
    called_with: HashMap<String, Vec<u64>>,
}

impl<'a> Evidence<'a> {
    fn collect(binary: &Binary, offsets: &'a Offsets) -> Self {
        let mut this = Self {
            offsets,
            named: Vec::new(),
            functions: HashMap::new(),
            by_target: Vec::new(),
            called_with: HashMap::new(),
        };
        let mut bytes = 0;
        let mut calls: Vec<CallWith> = Vec::new();
        let mut entries = HashMap::new();
        for function in binary.functions.with_prefix("runtime.").take(MAX_FUNCTIONS) {
            bytes += function.end - function.entry;
            if bytes > MAX_BYTES {
                break;
            }
            let name = String::from_utf8_lossy(function.name).into_owned();
            let Ok(code) = binary.code(&function) else { continue };
            let found = references(code.bytes(), function.entry);
            let from = this.named.len();
            this.named.extend(found.named);
            calls.extend(found.calls);
            entries.insert(function.entry, name.clone());
            this.functions.entry(name).or_default().push(from..this.named.len());
        }
        for call in calls {
            if let Some(name) = entries.get(&call.callee) {
                this.called_with.entry(name.clone()).or_default().push(call.first);
            }
        }
        this.by_target = (0..this.named.len() as u32).collect();
        this.by_target.sort_unstable_by_key(|&i| this.named[i as usize].target);
        this
    }

    fn locate(&self, global: Global) -> Result<u64, String> {
        match global {
            Global::Sched => self.sched(),
            Global::Memstats => self.memstats(),
            Global::GcController => self.gc_controller(),
            Global::Mheap => self.mheap(),
            Global::Allgs => self.allgs(),
            Global::Allglen => self.allglen(),
            Global::Allm => self.allm(),
            Global::Allp => self.allp(),
            Global::Work => self.work(),
            Global::Gomaxprocs => self.gomaxprocs(),
            Global::Mbuckets => self.mbuckets(),
            Global::MemProfileRate => self.mem_profile_rate(),
            Global::ProfCycle => self.prof_cycle(),
        }
    }

    /// proc.go, `schedinit`: `sched.maxmcount = 10000`.
    fn sched(&self) -> Result<u64, String> {
        let is_it = |r: &Reference| {
            r.access == Access::Write && r.size == 4 && r.constant == Some(MAX_THREADS)
        };
        let at = only(self.targets("runtime.schedinit", is_it)?)?;
        self.confirmed(at, "runtime.schedt", "maxmcount")
    }

    /// It begins with `heapStats`, whose methods are called with its address (mstats.go).
    fn memstats(&self) -> Result<u64, String> {
        let at = self.receiver("runtime.(*consistentHeapStats).")?;
        self.confirmed(at, "runtime.mstats", "heapStats.stats")
    }

    /// Its methods are called with its address (mgcpacer.go).
    fn gc_controller(&self) -> Result<u64, String> {
        let base = self.receiver("runtime.(*gcControllerState).")?;
        self.confirmed(base, "runtime.gcControllerState", "")
    }

    /// Its methods are called with its address (mheap.go).
    fn mheap(&self) -> Result<u64, String> {
        let base = self.receiver("runtime.(*mheap).")?;
        self.confirmed(base, "runtime.mheap", "")
    }

    /// proc.go, `allgadd`: `allgs = append(allgs, gp)`; `forEachG` ranges over it.
    fn allgs(&self) -> Result<u64, String> {
        let written = self.targets("runtime.allgadd", |r| writes(r) && r.size == 8)?;
        let slices: BTreeSet<u64> = written
            .iter()
            .copied()
            .filter(|t| written.contains(&(t + 8)) && written.contains(&(t + 16)))
            .collect();
        let at = only(slices)?;
        let read = self.targets("runtime.forEachG", |r| r.access == Access::Read && r.size == 8)?;
        if read.contains(&at) && read.contains(&(at + 8)) { Ok(at) } else { Err(disagree()) }
    }

    /// proc.go, `allgadd`: `atomic.Storeuintptr(&allglen, …)`, an `xchg`. The other one there stores
    /// `allgptr`, which is compared before. Others load it (`gcount`, inlined).
    fn allglen(&self) -> Result<u64, String> {
        let mut stored = self.targets("runtime.allgadd", |r| is_exchange(r, 8))?;
        for compared in self.targets("runtime.allgadd", |r| r.access == Access::Read)? {
            stored.remove(&compared);
        }
        let at = only(stored)?;
        let readers = self.readers(at, 8);
        // One at least: a program that does not ask for their number has no `gcount`.
        if readers >= 1 { Ok(at) } else { Err(disagree()) }
    }

    /// proc.go, `mcommoninit`: `mp.alllink = allm`, `atomicstorep(&allm, mp)`; `mexit` walks the list
    /// from `&allm`.
    fn allm(&self) -> Result<u64, String> {
        let stored = self.targets("runtime.mcommoninit", |r| is_exchange(r, 8))?;
        let read =
            self.targets("runtime.mcommoninit", |r| r.access == Access::Read && r.size == 8)?;
        let walked = self.targets("runtime.mexit", |r| r.access == Access::Address)?;
        only(stored.into_iter().filter(|t| read.contains(t) && walked.contains(t)).collect())
    }

    /// proc.go, `preemptall` ranges over it; `procresize` changes its length.
    fn allp(&self) -> Result<u64, String> {
        let read =
            self.targets("runtime.preemptall", |r| r.access == Access::Read && r.size == 8)?;
        let written = self.targets("runtime.procresize", |r| writes(r) && r.size == 8)?;
        let both =
            |t: &u64| read.contains(&(t + 8)) && written.contains(t) && written.contains(&(t + 8));
        only(read.iter().copied().filter(both).collect())
    }

    /// mgcwork.go, `putfull`: `work.full.push(…)`, its first field.
    fn work(&self) -> Result<u64, String> {
        let candidates = self.targets("runtime.putfull", |r| r.access == Access::Address)?;
        let confirmed = candidates
            .into_iter()
            .filter(|&at| self.confirmed(at, "runtime.workType", "").is_ok())
            .collect();
        only(confirmed)
    }

    /// proc.go, `stopTheWorldWithSema`: `sched.stopwait = gomaxprocs`; `procresize` stores it
    /// atomically at its end.
    fn gomaxprocs(&self) -> Result<u64, String> {
        let read = self
            .targets("runtime.stopTheWorldWithSema", |r| r.access == Access::Read && r.size == 4)?;
        let stored = self.targets("runtime.procresize", |r| is_exchange(r, 4))?;
        only(stored.into_iter().filter(|t| read.contains(t)).collect())
    }

    /// mprof.go: `mProf_FlushLocked` walks it; `stkbucket` takes its address, to add to it.
    fn mbuckets(&self) -> Result<u64, String> {
        let read =
            self.targets("runtime.mProf_FlushLocked", |r| r.access == Access::Read && r.size == 8)?;
        let added = self.targets("runtime.stkbucket", |r| r.access == Access::Address)?;
        only(added.into_iter().filter(|t| read.contains(t)).collect())
    }

    /// proc.go, `schedinit`: `MemProfileRate = 0` where nobody reads the profile; the allocator
    /// reads it.
    fn mem_profile_rate(&self) -> Result<u64, String> {
        let cleared = self.targets("runtime.schedinit", |r| {
            r.access == Access::Write && r.size == 8 && r.constant == Some(0)
        })?;
        let mut read = BTreeSet::new();
        for function in ["runtime.mallocgc", "runtime.mallocgcSmallNoscan", "runtime.profilealloc"]
        {
            read.extend(
                self.targets(function, |r| r.access == Access::Read && r.size == 8)
                    .unwrap_or_default(),
            );
        }
        only(cleared.into_iter().filter(|t| read.contains(t)).collect())
    }

    /// mprof.go: `mProf_Malloc` and `mProf_Free` read it, to know where to count; `mProf_Flush` too.
    fn prof_cycle(&self) -> Result<u64, String> {
        let read = |function| self.targets(function, |r| r.access == Access::Read && r.size == 4);
        let (freed, flushed) = (read("runtime.mProf_Free")?, read("runtime.mProf_Flush")?);
        let made = read("runtime.mProf_Malloc")?;
        only(made.into_iter().filter(|t| freed.contains(t) && flushed.contains(t)).collect())
    }

    /// Addresses that a function names in some way.
    fn targets(
        &self,
        function: &str,
        is_it: impl Fn(&Reference) -> bool,
    ) -> Result<BTreeSet<u64>, String> {
        let parts = self
            .functions
            .get(function)
            .ok_or_else(|| format!("the executable has no function {function}"))?;
        Ok(parts
            .iter()
            .flat_map(|part| &self.named[part.clone()])
            .filter(|r| is_it(r))
            .map(|r| r.target)
            .collect())
    }

    /// What the methods that begin so are called with, all over the runtime.
    fn receiver(&self, methods: &str) -> Result<u64, String> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for (_, pointers) in self.called_with.iter().filter(|(name, _)| name.starts_with(methods)) {
            for &p in pointers {
                *counts.entry(p).or_default() += 1;
            }
        }
        let all: usize = counts.values().sum();
        let best = counts.iter().max_by_key(|(_, n)| **n);
        match best {
            Some((&at, &n)) if n >= 3 && n * 10 >= all * 9 => Ok(at),
            Some(_) => Err(format!("calls of {methods}… do not agree on it")),
            None => Err(format!("no calls of {methods}… name it")),
        }
    }

    /// The struct that has `field` at `at` (or begins there, for no field), if the code of the whole
    /// runtime uses most of its numbers where the offsets say that they are. Seen in builds of small
    /// programs, one of them without `runtime.ReadMemStats` (1.21.13, 1.24.11, 1.27.3): 81 to 100 % with
    /// the right offsets, 0 to 37 % at a wrong address or with `work` moved by `greenteagc`, but up to
    /// 74 % with the structs of `staticlockranking`, where only a part has moved. Three quarters lies
    /// between, not far from the last.
    fn confirmed(&self, at: u64, strukt: &str, field: &str) -> Result<u64, String> {
        let off = if field.is_empty() { 0 } else { self.offset(strukt, field)? };
        let base = at.checked_sub(off).ok_or_else(disagree)?;
        let numbers = || self.offsets.fields(strukt).filter(|(_, f)| f.size <= 8);
        let all = numbers().count();
        let used = numbers().filter(|(_, f)| self.is_used(base, *f)).count();
        if all >= MIN_FIELDS && used * 4 >= all * 3 {
            Ok(base)
        } else {
            Err(format!("only {used} of {all} fields of {strukt} are used where they should be"))
        }
    }

    fn offset(&self, strukt: &str, field: &str) -> Result<u64, String> {
        let field = self.offsets.field(strukt, field);
        field.map(|f| u64::from(f.off)).ok_or_else(|| format!("no offsets of {strukt} are known"))
    }

    /// All references to an address.
    fn at(&self, target: u64) -> impl Iterator<Item = (u32, &Reference)> {
        let target_of = |i: &u32| self.named[*i as usize].target;
        let from = self.by_target.partition_point(|i| target_of(i) < target);
        self.by_target[from..]
            .iter()
            .map(|&i| (i, &self.named[i as usize]))
            .take_while(move |(_, r)| r.target == target)
    }

    fn is_accessed(&self, target: u64, size: u32) -> bool {
        self.at(target).any(|(_, r)| r.access != Access::Address && r.size == size)
    }

    /// Whether code reads or writes a field as a whole, or takes its address to hand it on (as it does
    /// with `memstats.other_sys`), which the beginning of a struct cannot be told from.
    fn is_used(&self, base: u64, field: Field) -> bool {
        let target = base.wrapping_add(u64::from(field.off));
        let is_named = || self.at(target).any(|(_, r)| r.access == Access::Address);
        self.is_accessed(target, field.size) || (field.off != 0 && is_named())
    }

    /// Number of references that read it.
    fn readers(&self, target: u64, size: u32) -> usize {
        self.at(target).filter(|(_, r)| r.access == Access::Read && r.size == size).count()
    }
}

fn writes(r: &Reference) -> bool {
    matches!(r.access, Access::Write | Access::ReadWrite)
}

/// An atomic store: Go's compiler makes it an `xchg`.
fn is_exchange(r: &Reference, size: u32) -> bool {
    r.access == Access::ReadWrite && r.size == size && r.constant.is_none()
}

fn only(found: BTreeSet<u64>) -> Result<u64, String> {
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(at), None) => Ok(at),
        (None, _) => Err("the code that uses it looks otherwise than in the known versions".into()),
        (Some(_), Some(_)) => Err("the code that uses it leaves a choice".into()),
    }
}

fn disagree() -> String {
    "two ways of finding it disagree".to_owned()
}

impl Globals {
    /// Globals that are where somebody says: a test, a fuzzer.
    pub fn at(places: &[(Global, u64)], histograms: &[u64]) -> Self {
        let place = |g: &Global| places.iter().find(|(p, _)| p == g).map(|(_, at)| *at);
        Self {
            found: Global::ALL.iter().map(|g| place(g).ok_or_else(|| "left out".into())).collect(),
            histograms: histograms.iter().copied().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::fixture;

    #[test]
    fn the_order_of_all_is_that_of_the_enum() {
        assert!(Global::ALL.iter().enumerate().all(|(n, g)| *g as usize == n));
    }

    #[test]
    fn names_that_are_missing_are_told_one_by_one() {
        let binary = Binary::load(fixture::go_elf(false)).expect("fixture loads");
        let globals = Globals::find(&binary, &Offsets::for_version(&binary.version));
        for global in Global::ALL {
            let why = globals.address(global).expect_err("the fixture has no runtime");
            assert!(
                why.contains("no function runtime.") || why.contains("no calls of runtime."),
                "{global:?}: {why}"
            );
        }
        assert!(!globals.records_at(0));
    }
}
