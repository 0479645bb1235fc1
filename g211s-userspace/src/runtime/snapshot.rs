//! One moment of the Go runtime's own always-on counters, in a few system calls. Whether figures
//! may be believed is the business of [`Runtime::usable`]; here a figure is left out where its
//! feature is not usable or its read failed. Must not know recordings' files, nor what follows.
//!
//! **One moment.** The counters of collections and stops are read twice, one call right after the
//! other; where the readings differ, or `sched.gcwaiting` says that a stop is under way, both are
//! thrown away and taken again, a bounded number of times; then the sample is marked. `begin_ns`
//! and `end_ns` enclose these two readings, so whatever the runtime counted before `begin_ns` is in the
//! figures and whatever it counted after `end_ns` is not, marked or not: each counter is one
//! aligned word. Ps and goroutines are read after them, word by word: they move on all the time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::histogram::{BYTES, TimeHist};
use super::memory::Memory;
use super::{Feature, Runtime};
use crate::go::globals::Global;
use crate::record::{GcSample, GoroutineSample, PSample, RuntimeSample, StwSample};

mod heap;
pub mod ms;

use ms::MRow;

/// Readings that may be thrown away for one sample.
const RETRIES: u32 = 8;
/// Between two readings, where a stop is under way: most last less than twice this.
const RETRY_AFTER: Duration = Duration::from_micros(100);
/// Most Ps (Go `runtime/runtime2.go` sets no limit of its own since 1.10).
const MAX_PS: u64 = 4096;
/// `_Gscan` (Go `runtime/runtime2.go`): a flag on top of a goroutine's status.
const G_SCAN: u64 = 0x1000;
/// Pages on which statuses lie are read together if nothing else is between them.
const PAGE: u64 = 4096;
/// Most bytes read as one range.
const MAX_RANGE: u64 = 1 << 16;

const SCHED: &str = "runtime.schedt";
const MSTATS: &str = "runtime.mstats";
const WORK: &str = "runtime.workType";

/// Ranges of the first reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    GcWaiting,
    Numgc,
    NumForced,
    PauseTotal,
    SweepGen,
    WorkCycles,
    WorkPause,
    AssistTime,
    GcPauseDist,
    StoppingGc,
    StoppingOther,
    TotalGc,
    TotalOther,
    TimeToRun,
    Controller,
    Gomaxprocs,
    Allp,
    Allgs,
    Allglen,
    Ngsys,
}

impl What {
    /// Whether it must be the same at both ends of the reading.
    fn is_guard(self) -> bool {
        !matches!(
            self,
            Self::TimeToRun
                | Self::AssistTime
                | Self::Controller
                | Self::Gomaxprocs
                | Self::Allp
                | Self::Allgs
                | Self::Allglen
                | Self::Ngsys
        )
    }
}

/// Takes samples of one target.
#[derive(Debug)]
pub struct Sampler {
    plan: Vec<(What, u64, usize)>,
    /// Ms kept for threads that C made: their goroutines are dead and count as the runtime's own.
    /// Go 1.26 gave these a status of their own.
    extra_ms: Option<u64>,
}

/// What was read, by range; `None`: it was not.
struct Reading(Vec<(What, Option<Vec<u8>>)>);

impl Reading {
    fn bytes(&self, what: What) -> Option<&[u8]> {
        self.0.iter().find(|(w, _)| *w == what)?.1.as_deref()
    }

    fn number(&self, what: What) -> Option<u64> {
        number(self.bytes(what)?)
    }

    fn hist(&self, what: What) -> Option<TimeHist> {
        TimeHist::from_bytes(self.bytes(what)?)
    }
}

/// A little-endian number of at most 8 bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    let mut word = [0; 8];
    word.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(word))
}

/// Reads ranges in as few calls as there can be.
fn read_all<M: Memory>(memory: &M, ranges: &[(u64, usize)]) -> Vec<Option<Vec<u8>>> {
    let mut bufs: Vec<Vec<u8>> = ranges.iter().map(|(_, len)| vec![0; *len]).collect();
    let mut asked: Vec<(u64, &mut [u8])> =
        ranges.iter().zip(&mut bufs).map(|((at, _), buf)| (*at, buf.as_mut_slice())).collect();
    let read = memory.read_many(&mut asked);
    bufs.into_iter().zip(read).map(|(buf, ok)| ok.then_some(buf)).collect()
}

impl Sampler {
    /// Looks up once where everything is. `extra_ms`: see [`Self::threads`].
    pub fn new<M: Memory>(runtime: &Runtime<M>, cgo: bool) -> Self {
        use Feature::{Cycle, Gc, Goroutines, Heap, Latency, Processors, Spans, StwHistograms};

        let mut sampler = Self { plan: Vec::new(), extra_ms: (!cgo).then_some(0) };
        let field = |global, strukt, name| {
            let at = runtime.field(strukt, name).ok()?;
            let base = runtime.address(global).ok()?;
            Some((base.checked_add(u64::from(at.off))?, at.size as usize))
        };
        let sized = |global, len| Some((runtime.address(global).ok()?, len));
        let usable = |feature| runtime.usable(feature).is_ok();
        let mut add = |what, feature, at: Option<(u64, usize)>| {
            if let Some((at, len)) = at.filter(|(_, len)| usable(feature) && *len <= BYTES) {
                sampler.plan.push((what, at, len));
            }
        };
        let sched = |name| field(Global::Sched, SCHED, name);
        // Tells of stops, whichever of their counters can be had.
        let either = if usable(StwHistograms) { StwHistograms } else { Gc };
        add(What::GcWaiting, either, sched("gcwaiting"));
        add(What::Numgc, Gc, field(Global::Memstats, MSTATS, "numgc"));
        add(What::NumForced, Gc, field(Global::Memstats, MSTATS, "numforcedgc"));
        add(What::PauseTotal, Gc, field(Global::Memstats, MSTATS, "pause_total_ns"));
        add(What::SweepGen, Spans, field(Global::Mheap, "runtime.mheap", "sweepgen"));
        add(What::WorkCycles, Cycle, field(Global::Work, WORK, "cycles"));
        add(What::WorkPause, Cycle, field(Global::Work, WORK, "pauseNS"));
        add(What::AssistTime, Cycle, field(Global::Work, WORK, "cpuStats.GCAssistTime"));
        add(What::GcPauseDist, StwHistograms, field(Global::Memstats, MSTATS, "gcPauseDist"));
        add(What::StoppingGc, StwHistograms, sched("stwStoppingTimeGC"));
        add(What::StoppingOther, StwHistograms, sched("stwStoppingTimeOther"));
        add(What::TotalGc, StwHistograms, sched("stwTotalTimeGC"));
        add(What::TotalOther, StwHistograms, sched("stwTotalTimeOther"));
        add(What::TimeToRun, Latency, sched("timeToRun"));
        let controller = runtime.offsets().size_of(heap::CONTROLLER).unwrap_or(0) as usize;
        add(What::Controller, Heap, sized(Global::GcController, controller));
        add(What::Gomaxprocs, Processors, sized(Global::Gomaxprocs, 4));
        add(What::Allp, Processors, sized(Global::Allp, 16));
        add(What::Allgs, Goroutines, sized(Global::Allgs, 8));
        add(What::Allglen, Goroutines, sized(Global::Allglen, 8));
        add(What::Ngsys, Goroutines, sched("ngsys"));
        sampler
    }

    /// Ranges of the plan, all or the guards only.
    fn reading<M: Memory>(&self, memory: &M, guards: bool) -> Reading {
        let plan: Vec<_> = self.plan.iter().filter(|(w, ..)| !guards || w.is_guard()).collect();
        let ranges: Vec<_> = plan.iter().map(|(_, at, len)| (*at, *len)).collect();
        let read = read_all(memory, &ranges);
        Reading(plan.iter().map(|(what, ..)| *what).zip(read).collect())
    }

    /// A sample; `now` is the monotonic clock, ns. Visits goroutines if there are at most
    /// `goroutines`. Fills in neither target, moment nor cost.
    pub fn sample<M: Memory>(
        &self,
        runtime: &Runtime<M>,
        now: &dyn Fn() -> u64,
        goroutines: u64,
    ) -> RuntimeSample {
        let memory = runtime.memory();
        let mut sample = RuntimeSample::default();
        let reading = loop {
            sample.begin_ns = now();
            let reading = self.reading(memory, false);
            let again = self.reading(memory, true);
            sample.end_ns = now();
            let same = again
                .0
                .iter()
                .all(|(what, then)| then.is_some() && reading.bytes(*what) == then.as_deref());
            let stopping = reading.number(What::GcWaiting).is_some_and(|n| n != 0);
            sample.consistent = same && !stopping;
            if sample.consistent || sample.retries == RETRIES {
                break reading;
            }
            sample.retries += 1;
            memory.wait(RETRY_AFTER);
        };
        sample.heap = reading.bytes(What::Controller).and_then(|b| heap::sample(runtime, b));
        sample.gc = gc(&reading);
        sample.time_to_run = reading.hist(What::TimeToRun);
        sample.assist_cpu_ns = reading.number(What::AssistTime);
        sample.gc_pauses = reading.hist(What::GcPauseDist);
        sample.stw = stw(&reading);
        sample.gomaxprocs = reading.number(What::Gomaxprocs).map(|n| n as u32);
        let lists = Self::lists(memory, &reading, goroutines);
        let (ps, statuses) = Self::visit(runtime, &lists);
        sample.ps = ps;
        sample.goroutines = self.goroutines(runtime, &reading, lists.gs.is_some(), &statuses);
        sample
    }

    /// Where the Ps and the goroutines are.
    fn lists<M: Memory>(memory: &M, reading: &Reading, most: u64) -> Lists {
        let allp = reading
            .bytes(What::Allp)
            .and_then(|b| Some((number(b.get(..8)?)?, number(b.get(8..)?)?)));
        let allp = allp.filter(|(_, len)| (1..=MAX_PS).contains(len));
        let gs = reading.number(What::Allgs).zip(reading.number(What::Allglen));
        let gs = gs.filter(|(_, len)| (1..=most).contains(len));
        let ranges: Vec<(u64, usize)> =
            [allp, gs].into_iter().flatten().map(|(at, len)| (at, len as usize * 8)).collect();
        let mut read = read_all(memory, &ranges).into_iter();
        let mut pointers = |wanted: Option<(u64, u64)>| -> Option<Vec<u64>> {
            wanted?;
            let bytes = read.next()??;
            let (words, _) = bytes.as_chunks::<8>();
            Some(words.iter().map(|w| u64::from_le_bytes(*w)).filter(|p| *p != 0).collect())
        };
        Lists { ps: pointers(allp), gs: pointers(gs) }
    }

    /// Reads the Ps and the goroutines' statuses in one go, then the Ps' Ms.
    fn visit<M: Memory>(runtime: &Runtime<M>, lists: &Lists) -> (Vec<PSample>, Vec<u64>) {
        let at = |strukt, field| runtime.field(strukt, field).ok();
        let p_fields = [at("runtime.p", "id"), at("runtime.p", "status"), at("runtime.p", "m")];
        let ps: &[u64] = lists
            .ps
            .as_deref()
            .filter(|_| p_fields.iter().all(Option::is_some))
            .unwrap_or_default();
        let mut ranges = Vec::new();
        for p in ps {
            for f in p_fields.iter().flatten() {
                ranges.push((p.wrapping_add(u64::from(f.off)), f.size.min(8) as usize));
            }
        }
        let status = at("runtime.g", "atomicstatus").filter(|f| f.size == 4);
        let mut gs: Vec<u64> = match (status, &lists.gs) {
            (Some(f), Some(gs)) => gs.iter().map(|g| g.wrapping_add(u64::from(f.off))).collect(),
            _ => Vec::new(),
        };
        gs.sort_unstable();
        let runs = runs(&gs);
        ranges.extend(runs.iter().map(|r| (r.0, (r.1 - r.0) as usize)));
        let read = read_all(runtime.memory(), &ranges);
        let (of_ps, of_gs) = read.split_at(ps.len() * p_fields.len());

        let value = |b: &Option<Vec<u8>>| number(b.as_deref()?);
        let rows: Vec<(u64, u64, u64)> = of_ps
            .chunks_exact(p_fields.len())
            .filter_map(|p| Some((value(&p[0])?, value(&p[1])?, value(&p[2])?)))
            .collect();
        let ms = ms::at(runtime, &rows.iter().map(|r| r.2).filter(|m| *m != 0).collect::<Vec<_>>());
        let rows = rows.into_iter().map(|(id, status, m)| {
            let m = ms.get(&m);
            PSample {
                id: id as u32,
                status: name(runtime, "pStatus", status),
                m_id: m.map(|m| m.id),
                tid: m.map(|m| m.procid).filter(|tid| *tid != 0),
            }
        });
        let mut statuses = Vec::with_capacity(gs.len());
        let mut next = gs.iter().peekable();
        for ((from, to), bytes) in runs.iter().zip(of_gs) {
            while let Some(at) = next.next_if(|at| **at < *to) {
                let offset = (at - from) as usize;
                let word = bytes.as_ref().and_then(|b| number(b.get(offset..offset + 4)?));
                statuses.extend(word.map(|w| w & !G_SCAN));
            }
        }
        (rows.collect(), statuses)
    }

    fn goroutines<M: Memory>(
        &self,
        runtime: &Runtime<M>,
        reading: &Reading,
        visited: bool,
        statuses: &[u64],
    ) -> Option<GoroutineSample> {
        let all = reading.number(What::Allglen)?;
        let system = reading.number(What::Ngsys)?;
        let mut by_status = BTreeMap::new();
        for status in statuses {
            *by_status.entry(name(runtime, "gStatus", *status)).or_insert(0u64) += 1;
        }
        // gcount() of Go runtime/proc.go, from the other side: what is not dead and not the
        // runtime's own.
        let of = |status: &str| by_status.get(status).copied().unwrap_or(0);
        let told_apart = runtime.offsets().enum_name("gStatus", 11) == Some("_Gdeadextra");
        let extra = if told_apart { Some(of("_Gdeadextra")) } else { self.extra_ms };
        let dead = of("_Gdead") + of("_Gdeadextra") + of("_Gidle");
        let whole = visited && statuses.len() as u64 == all;
        let count = extra.filter(|_| whole).map(|extra| {
            let live = (statuses.len() as u64).saturating_sub(dead);
            live.saturating_sub(system.saturating_sub(extra))
        });
        Some(GoroutineSample { count, system, by_status })
    }

    /// All Ms, and with them what is known of those kept for threads that C made.
    pub fn threads<M: Memory>(&mut self, runtime: &Runtime<M>) -> Vec<MRow> {
        let (rows, extra) = ms::all(runtime);
        if !rows.is_empty() {
            self.extra_ms = Some(extra);
        }
        rows
    }
}

/// Pointers of `allp` and `allgs`; `None`: not read, or too many.
struct Lists {
    ps: Option<Vec<u64>>,
    gs: Option<Vec<u64>>,
}

/// Ranges (from, to) that cover the 4-byte words at these ascending addresses and touch no page on
/// which there is none of them.
fn runs(words: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &at in words {
        let end = at.saturating_add(4);
        match runs.last_mut() {
            Some(last) if at / PAGE <= (last.1 - 1) / PAGE + 1 && end - last.0 <= MAX_RANGE => {
                last.1 = last.1.max(end);
            }
            _ => runs.push((at, end)),
        }
    }
    runs
}

fn name<M: Memory>(runtime: &Runtime<M>, which: &str, value: u64) -> String {
    let name = runtime.offsets().enum_name(which, value);
    name.map_or_else(|| format!("status {value}"), str::to_owned)
}

fn gc(reading: &Reading) -> Option<GcSample> {
    let cycles = reading.number(What::Numgc)? as u32;
    // `work.cycles` counts beginnings, `numgc` ends; `work.pauseNS` is the open cycle's, or what
    // the last one left (Go runtime/mgc.go, gcStart and gcMarkTermination).
    let open = reading.number(What::WorkCycles).map(|begun| (begun as u32).wrapping_sub(cycles));
    let open_pause_ns = match open {
        Some(0) => Some(0),
        Some(1) => reading.number(What::WorkPause),
        _ => None,
    };
    Some(GcSample {
        cycles,
        forced: reading.number(What::NumForced)? as u32,
        pause_total_ns: reading.number(What::PauseTotal)?,
        open_pause_ns,
        sweepgen: reading.number(What::SweepGen).map(|n| n as u32),
    })
}

fn stw(reading: &Reading) -> Option<StwSample> {
    Some(StwSample {
        stopping_gc: reading.hist(What::StoppingGc)?,
        stopping_other: reading.hist(What::StoppingOther)?,
        total_gc: reading.hist(What::TotalGc)?,
        total_other: reading.hist(What::TotalOther)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_together_where_no_other_page_is_touched() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[0x1000, 0x11e0, 0x2010, 0x5000]), [(0x1000, 0x2014), (0x5000, 0x5004)]);
        let many: Vec<u64> = (0..1000).map(|i| 0x10_0000 + i * 480).collect();
        let covered = runs(&many);
        assert!(covered.len() < 10, "{} ranges", covered.len());
        assert!(many.iter().all(|at| covered.iter().any(|r| r.0 <= *at && at + 4 <= r.1)));
        assert!(covered.iter().all(|r| r.1 - r.0 <= MAX_RANGE));
        assert_eq!(runs(&[u64::MAX - 1]).len(), 1);
    }
}
