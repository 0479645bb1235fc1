//! Recordings of incidents: the last seconds of the run are kept in memory as blocks of a recording, and written to a
//! file when something happened. Must not know what an incident is, nor what records mean beyond whose they are.
//!
//! The kernel side's counters only rise from attach on, and a recording's begin at its start. So the ring is a row of
//! stretches, each of which begins with a reading of all counters; a recording begins with a stretch, and what was
//! counted before is taken off.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use g211s_ebpf::event::{EVENT_CLASSES, NO_TARGET};

use crate::event::{Event, by_class};
use crate::record::{
    Cost, Hists, Interval, Notice, ProcessInfo, Record, RunEnd, RunStart, SparseHist, SymbolInfo,
    Target, ThreadInfo,
};
use crate::recording::{Blocks, Reader, Writer, file_head};

/// Foreign processes remembered by name.
const MAX_PROCESSES: usize = 8192;
/// Names of addresses remembered for a target.
const MAX_SYMBOLS: usize = 20_000;

/// What was read of a target's counters at one moment.
#[derive(Clone, Debug, Default)]
struct Base {
    interval: Option<Interval>,
    hists: Option<Hists>,
}

/// A part of the ring.
#[derive(Clone, Debug)]
struct Stretch {
    start_ns: u64,
    bases: BTreeMap<u8, Base>,
    blocks: Vec<Arc<[u8]>>,
    bytes: u64,
}

/// Who is, or lately was, watched in a place.
#[derive(Clone, Debug)]
struct Tenant {
    target: Target,
    since_ns: u64,
    threads: BTreeMap<u32, ThreadInfo>,
    symbols: Vec<SymbolInfo>,
}

/// The last seconds.
pub struct Ring {
    blocks: Blocks,
    /// From the second on full; the last one grows.
    stretches: VecDeque<Stretch>,
    tenants: BTreeMap<u8, Tenant>,
    processes: BTreeMap<u32, ProcessInfo>,
    seconds_ns: u64,
    memory: u64,
    lost: u64,
}

/// What a file is made of.
pub struct Incident {
    head: RunStart,
    stretches: Vec<Stretch>,
    tenants: BTreeMap<u8, Tenant>,
    processes: Vec<ProcessInfo>,
    /// The last reading.
    ends: BTreeMap<u8, Base>,
    end_ns: u64,
    notice: String,
}

impl Ring {
    /// Keeps so much time, in so many bytes at most.
    ///
    /// # Errors
    /// The packer cannot be made.
    pub fn new(seconds_ns: u64, memory: u64) -> io::Result<Self> {
        Ok(Self {
            blocks: Blocks::new()?,
            stretches: VecDeque::new(),
            tenants: BTreeMap::new(),
            processes: BTreeMap::new(),
            seconds_ns,
            memory,
            lost: 0,
        })
    }

    /// Keeps so much from now on.
    pub fn resize(&mut self, seconds_ns: u64, memory: u64) {
        (self.seconds_ns, self.memory) = (seconds_ns, memory);
    }

    /// Takes the next record of the run.
    pub fn push(&mut self, record: &Record) {
        match record {
            Record::Attached(a) => {
                let tenant = Tenant {
                    target: a.target.clone(),
                    since_ns: a.ts_ns,
                    threads: BTreeMap::new(),
                    symbols: Vec::new(),
                };
                self.tenants.insert(a.index, tenant);
            }
            Record::Thread(t) => {
                if let Some(tenant) = self.tenants.get_mut(&t.target) {
                    tenant.threads.insert(t.tid, (**t).clone());
                }
            }
            Record::Symbol(s) => {
                if let Some(tenant) = self.tenants.get_mut(&s.target)
                    && tenant.symbols.len() < MAX_SYMBOLS
                {
                    tenant.symbols.push((**s).clone());
                }
            }
            Record::Process(p) => {
                if self.processes.len() >= MAX_PROCESSES {
                    self.processes.clear();
                }
                self.processes.insert(p.tgid, (**p).clone());
            }
            Record::Interval(i) => {
                if let Some(base) = self.base(i.target) {
                    base.interval = Some((**i).clone());
                    return;
                }
                self.store(record);
            }
            Record::Hists(h) => {
                if let Some(base) = self.base(h.target) {
                    base.hists = Some((**h).clone());
                }
            }
            Record::ThreadTotals(t) => {
                if let Some(tenant) = self.tenants.get_mut(&t.target) {
                    tenant.threads.remove(&t.tid);
                }
            }
            Record::Start(_) | Record::Detached(_) | Record::End(_) => {}
            _ => self.store(record),
        }
    }

    /// What the present stretch began with, as long as that is being read.
    fn base(&mut self, target: u8) -> Option<&mut Base> {
        let stretch = self.stretches.back_mut().filter(|s| s.blocks.is_empty())?;
        self.blocks.is_empty().then(|| stretch.bases.entry(target).or_default())
    }

    fn store(&mut self, record: &Record) {
        if self.stretches.is_empty() {
            return;
        }
        self.lost += u64::from(!self.blocks.push(record));
        if self.blocks.is_full() {
            self.close_block();
        }
    }

    /// Ends the block under way: to be called about once a second.
    pub fn close_block(&mut self) {
        if self.blocks.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        if self.blocks.take(&mut bytes).is_err() {
            self.lost += 1;
            return;
        }
        if let Some(stretch) = self.stretches.back_mut() {
            stretch.bytes += bytes.len() as u64;
            stretch.blocks.push(bytes.into());
        }
        // One stretch that is larger than all that is allowed loses its beginning, and with it its reading.
        while self.bytes() > self.memory && self.stretches.len() > 1 {
            self.stretches.pop_front();
        }
        if self.bytes() > self.memory {
            self.stretches.clear();
        }
    }

    /// Another stretch begins: readings of all targets' counters follow at once.
    pub fn begin(&mut self, now_ns: u64) {
        self.close_block();
        let blocks = Vec::new();
        self.stretches.push_back(Stretch {
            start_ns: now_ns,
            bases: BTreeMap::new(),
            blocks,
            bytes: 0,
        });
        let covered = now_ns.saturating_sub(self.seconds_ns);
        while self.stretches.get(1).is_some_and(|next| next.start_ns <= covered) {
            self.stretches.pop_front();
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.stretches.iter().map(|s| s.bytes).sum()
    }

    /// Records that could not be kept.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// All that is kept, with the readings that end it: those of the stretch that has just begun. `head` is the run's.
    pub fn incident(&self, head: RunStart, end_ns: u64, notice: String) -> Option<Incident> {
        let (last, stretches) =
            self.stretches.iter().collect::<Vec<_>>().split_last().map(|(l, s)| {
                ((*l).clone(), s.iter().map(|s| (*s).clone()).collect::<Vec<Stretch>>())
            })?;
        let first = stretches.first()?;
        // Who came and went before is of no account.
        let is_in = |tenant: &Tenant, index: &u8| {
            first.bases.contains_key(index)
                || last.bases.contains_key(index)
                || tenant.since_ns > first.start_ns
        };
        let tenants = self.tenants.iter().filter(|(index, t)| is_in(t, index));
        Some(Incident {
            head,
            tenants: tenants.map(|(index, t)| (*index, t.clone())).collect(),
            processes: self.processes.values().cloned().collect(),
            ends: last.bases,
            end_ns,
            notice,
            stretches,
        })
    }
}

impl Incident {
    /// Writes the file: under another name first, so that what has the name is whole. Its size, bytes.
    ///
    /// # Errors
    /// What could not be written.
    pub fn write(self, path: &Path) -> anyhow::Result<u64> {
        let part = path.with_extension("part");
        let mut writer = Writer::create(&part)?;
        let written = self.records(&mut |record| writer.write(&record).map_err(Into::into));
        let size = written.and_then(|()| Ok(writer.finish()?));
        if size.is_err() {
            // What is whole of it is of no use without its end.
            let _ = std::fs::remove_file(&part);
        } else {
            std::fs::rename(&part, path)?;
        }
        size
    }

    /// Hands on the records of a run that began with the first stretch, with targets numbered from 0.
    fn records(self, out: &mut dyn FnMut(Record) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { mut head, stretches, tenants, processes, ends, end_ns, notice } = self;
        let Some(first) = stretches.first() else { anyhow::bail!("nothing is kept yet") };
        let start_ns = first.start_ns;
        let bases = first.bases.clone();
        head.wall_ns = head.wall_ns.saturating_add(start_ns.saturating_sub(head.start_ns));
        head.start_ns = start_ns;
        let numbers: BTreeMap<u8, u8> = tenants.keys().copied().zip(0..).collect();
        head.targets = tenants.values().map(|t| t.target.clone()).collect();
        out(Record::Start(Box::new(head)))?;
        for process in processes {
            out(Record::Process(Box::new(process)))?;
        }
        for (tenant, number) in tenants.values().zip(0u8..) {
            for thread in tenant.threads.values() {
                out(Record::Thread(Box::new(ThreadInfo { target: number, ..thread.clone() })))?;
            }
            for symbol in &tenant.symbols {
                out(Record::Symbol(Box::new(SymbolInfo { target: number, ..symbol.clone() })))?;
            }
        }
        // Of a tenant's own, and not of the one before it in the same place.
        let place = |index: u8, ts_ns: u64| {
            let number = *numbers.get(&index)?;
            (ts_ns >= tenants.get(&index)?.since_ns).then_some(number)
        };
        let base = |index: u8| {
            let own = |b: &&Base| {
                let since = tenants.get(&index).map_or(u64::MAX, |t| t.since_ns);
                b.interval.as_ref().is_none_or(|i| i.ts_ns >= since)
            };
            bases.get(&index).filter(own).cloned().unwrap_or_default()
        };
        let zero = |index: u8, number: u8| -> Option<Interval> {
            let i = base(index).interval?;
            Some(Interval { target: number, ..since(&i, Some(&i)) })
        };
        for (&index, &number) in &numbers {
            if let Some(interval) = zero(index, number) {
                out(Record::Interval(Box::new(interval)))?;
            }
        }
        let mut received = [0u64; EVENT_CLASSES];
        for bytes in stretches.iter().flat_map(|s| &s.blocks) {
            let head = file_head();
            let source = io::Read::chain(&head[..], &bytes[..]);
            for record in Reader::new(source, "a block in memory")? {
                let record = match record? {
                    Record::Event(mut event) => {
                        let header = *event.header();
                        if header.target != NO_TARGET {
                            let number = place(header.target, header.ts_ns);
                            // A slice tells of the CPU as well, whosever it is.
                            let number = match (&event, number) {
                                (_, Some(number)) => number,
                                (Event::Slice(_), None) => NO_TARGET,
                                _ => continue,
                            };
                            event.header_mut().target = number;
                        }
                        received[usize::from(header.kind)] += 1;
                        Record::Event(event)
                    }
                    Record::Interval(i) => {
                        let Some(number) = place(i.target, i.ts_ns) else { continue };
                        let own = since(&i, base(i.target).interval.as_ref());
                        Record::Interval(Box::new(Interval { target: number, ..own }))
                    }
                    Record::Runtime(mut s) => {
                        let Some(number) = place(s.target, s.begin_ns) else { continue };
                        s.target = number;
                        Record::Runtime(s)
                    }
                    Record::Notice(mut n) => {
                        match n.target.map(|index| place(index, n.ts_ns)) {
                            None => {}
                            Some(None) => continue,
                            Some(number) => n.target = number,
                        }
                        Record::Notice(n)
                    }
                    Record::Steal(s) => Record::Steal(s),
                    _ => continue,
                };
                out(record)?;
            }
        }
        for (&index, end) in &ends {
            let Some(&number) = numbers.get(&index) else { continue };
            let before = base(index);
            if let Some(i) = &end.interval {
                let own = since(i, before.interval.as_ref());
                out(Record::Interval(Box::new(Interval { target: number, ..own })))?;
            }
            if let Some(h) = &end.hists {
                let hists = hists_since(h, before.hists.as_ref());
                out(Record::Hists(Box::new(Hists { target: number, ..hists })))?;
            }
        }
        out(Record::Notice(Box::new(Notice { ts_ns: end_ns, target: None, text: notice })))?;
        // What was lost is counted for the agent's whole run, which its metrics tell.
        let received = by_class(&received);
        out(Record::End(Box::new(RunEnd {
            end_ns,
            reason: "incident".into(),
            produced: received.clone(),
            lost: by_class(&[0; EVENT_CLASSES]),
            received,
            undecodable: 0,
            threads_full: 0,
            host_switches: 0,
            cost: Cost::default(),
        })))
    }
}

/// Counters since an earlier reading.
fn since(now: &Interval, before: Option<&Interval>) -> Interval {
    let Some(b) = before else { return now.clone() };
    macro_rules! less {
        ($($field:ident)*) => {
            Interval { $($field: now.$field.saturating_sub(b.$field),)* ..now.clone() }
        };
    }
    let less = less!(woken woken_ns preempted preempted_ns yielded yielded_ns oncpu oncpu_ns epoll_nonblocking
        epoll_blocking epoll_slept epoll_slept_ns epoll_events epoll_empty epoll_late epoll_late_ns stw gc large_bytes
        alloc_probes_ns alloc_hits parks_full held_full held_cut throttled throttled_ns);
    let optional = |now: Option<u64>, b: Option<u64>| Some(now?.saturating_sub(b.unwrap_or(0)));
    let hits = now.hits.iter().enumerate();
    let hits = hits.map(|(at, n)| n.saturating_sub(b.hits.get(at).copied().unwrap_or(0)));
    Interval {
        polls_ns: optional(now.polls_ns, b.polls_ns),
        assist_probes_ns: optional(now.assist_probes_ns, b.assist_probes_ns),
        hits: hits.collect(),
        ..less
    }
}

/// Histograms since an earlier reading. The largest value is that of the whole time if it may lie in this.
fn hists_since(now: &Hists, before: Option<&Hists>) -> Hists {
    let Some(before) = before else { return now.clone() };
    let of = |which: &u8, now: &SparseHist| {
        let none = SparseHist::default();
        let b = before.hists.get(which).unwrap_or(&none);
        let then: BTreeMap<u16, u64> = b.buckets.iter().copied().collect();
        let less =
            |&(at, n): &(u16, u64)| (at, n.saturating_sub(then.get(&at).copied().unwrap_or(0)));
        let buckets: Vec<(u16, u64)> =
            now.buckets.iter().map(less).filter(|(_, n)| *n > 0).collect();
        // Of the last filled bucket's values none is known to be the largest, unless it was new.
        let end = buckets.last().map_or(0, |(at, _)| {
            let (low, width) = g211s_ebpf::hist::bucket_range(usize::from(*at));
            low + width - 1
        });
        SparseHist {
            count: now.count.saturating_sub(b.count),
            sum: now.sum.saturating_sub(b.sum),
            max: if now.max > b.max { now.max } else { end.min(now.max) },
            buckets,
        }
    };
    let hists = now.hists.iter().map(|(which, h)| (*which, of(which, h))).collect();
    Hists { hists, ..now.clone() }
}

/// A folder of recordings that does not grow beyond a size.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    most: u64,
}

/// What the names of our files begin and end with.
const NAME: (&str, &str) = ("incident-", ".g211s");

impl Folder {
    /// Opens it, making it if it is not there; what a killed agent left unfinished in it is removed.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub fn open(path: &Path, most: u64) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;

        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)?;
        let this = Self { path: path.to_owned(), most };
        for (file, _) in this.files("part")? {
            std::fs::remove_file(file)?;
        }
        // Fails now where it would fail at the first incident.
        let probe = path.join(format!("{}probe.part", NAME.0));
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&probe)?
            .write_all(b"\n")?;
        std::fs::remove_file(probe)?;
        Ok(this)
    }

    /// The same with another limit, if it is this one.
    pub fn resized(self, path: &Path, most: u64) -> Option<Self> {
        (self.path == path).then_some(Self { most, ..self })
    }

    /// Our files with this ending and their sizes, oldest first (their names begin with the time).
    fn files(&self, ending: &str) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NAME.0) && name.ends_with(&format!(".{ending}")) {
                // One that goes away meanwhile needs no place.
                files.extend(
                    entry
                        .metadata()
                        .ok()
                        .filter(std::fs::Metadata::is_file)
                        .map(|m| (entry.path(), m.len())),
                );
            }
        }
        files.sort();
        Ok(files)
    }

    /// The name of a file for an incident at this wall-clock time (ns since 1970).
    pub fn name(&self, wall_ns: u64, what: &str) -> PathBuf {
        let safe: String = what
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
            .take(64)
            .collect();
        self.path.join(format!("{}{}-{safe}{}", NAME.0, utc(wall_ns), NAME.1))
    }

    /// Makes room: the oldest go until what is there is within the limit. How many went.
    ///
    /// # Errors
    /// The folder cannot be read, or a file not removed.
    pub fn trim(&self) -> io::Result<u64> {
        let files = self.files("g211s")?;
        let mut bytes: u64 = files.iter().map(|(_, size)| size).sum();
        let mut gone = 0;
        // The newest stays, however large it is.
        for (file, size) in files.iter().take(files.len().saturating_sub(1)) {
            if bytes <= self.most {
                break;
            }
            std::fs::remove_file(file)?;
            bytes -= size;
            gone += 1;
        }
        Ok(gone)
    }
}

/// `20261126T150233.123Z`.
fn utc(wall_ns: u64) -> String {
    let (seconds, ms) = (wall_ns / 1_000_000_000, wall_ns / 1_000_000 % 1000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's `civil_from_days`: years that begin in March, so that the leap day is their last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests;
