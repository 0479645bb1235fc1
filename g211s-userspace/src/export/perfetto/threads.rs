//! The tracks of a target's threads: their states, as far as events prove them, with what kept them waiting. Must not
//! know stops.

use std::collections::{BTreeMap, VecDeque};

use anyhow::Result;
use g211s_ebpf::event::{ThreadEvent, ThreadState};

use super::cpus::CpuTracks;
use super::names::{Kind, OfThread, Task, Whose, track};
use super::proto::{ThreadDescriptor, TrackDescriptor};
use super::trace::{Arg, Lane, Slice, Trace, Value};
use crate::analysis::verdict::Wait;
use crate::model::cpus::Cpus;
use crate::model::threads::{Piece, Threads};

/// Threads of one target that have tracks at most.
const MAX_THREADS: usize = 1 << 16;
/// Slices of other tasks shown within one wait at most.
const MAX_INNER: usize = 64;

type Of = Slice<OfThread>;

struct ThreadTrack {
    lane: Lane<OfThread>,
    held: VecDeque<Of>,
    /// What is proven until then has been taken.
    until_ns: u64,
    /// It was woken then, by a thread from which this flow comes.
    woken: Option<(u64, u64)>,
}

/// The threads of one target.
pub(super) struct ThreadTracks {
    target: usize,
    tgid: u32,
    by_tid: BTreeMap<u32, ThreadTrack>,
    /// Wakeups, on the tracks of those who woke.
    wakes: Lane<OfThread>,
    /// Events of threads beyond [`MAX_THREADS`], and intervals that came too late for their place.
    pub(super) left_out: u64,
}

/// Who is who.
pub(super) type WhoseIs<'a> = &'a dyn Fn(u32) -> Whose;

impl ThreadTracks {
    pub(super) fn new(trace: &mut Trace, target: usize, tgid: u32) -> Self {
        let wakes = trace.lane(track(Kind::Process, target, 0, 0), "wakeup");
        Self { target, tgid, by_tid: BTreeMap::new(), wakes, left_out: 0 }
    }

    /// The threads that have tracks.
    pub(super) fn tids(&self) -> impl Iterator<Item = u32> {
        self.by_tid.keys().copied()
    }

    /// Declares a thread, by its M where known.
    pub(super) fn declare(
        &self,
        trace: &mut Trace,
        tid: u32,
        m_id: Option<u64>,
        comm: Option<&str>,
    ) -> Result<()> {
        let comm = comm.unwrap_or("thread");
        let name = m_id.map_or_else(|| comm.to_owned(), |m| format!("M {m} ({comm})"));
        let uuid = track(Kind::Thread, self.target, tid, 0);
        trace.declare(TrackDescriptor {
            uuid: Some(uuid),
            thread: Some(ThreadDescriptor {
                pid: i32::try_from(self.tgid).ok(),
                tid: Some(tid.into()),
                thread_name: Some(name),
            }),
            ..TrackDescriptor::default()
        })
    }

    fn known(&mut self, trace: &mut Trace, tid: u32) -> Result<bool> {
        if self.by_tid.contains_key(&tid) {
            return Ok(true);
        }
        if self.by_tid.len() >= MAX_THREADS {
            return Ok(false);
        }
        self.declare(trace, tid, None, None)?;
        let lane = trace.lane(track(Kind::Thread, self.target, tid, 0), "thread");
        let new = ThreadTrack { lane, held: VecDeque::new(), until_ns: 0, woken: None };
        self.by_tid.insert(tid, new);
        Ok(true)
    }

    /// Takes an event, which `threads` has taken already.
    pub(super) fn event(
        &mut self,
        trace: &mut Trace,
        e: &ThreadEvent,
        threads: &Threads,
        cpus: &Cpus,
        tracks: &mut CpuTracks,
        whose: WhoseIs<'_>,
    ) -> Result<()> {
        let (tid, ts) = (e.header.tid, e.header.ts_ns);
        if !self.known(trace, tid)? {
            self.left_out += 1;
            return Ok(());
        }
        let Some(thread) = self.by_tid.get_mut(&tid) else { return Ok(()) };
        let proven = e.since_ns != 0 && e.since_ns < ts;
        if proven && ts <= thread.until_ns {
            self.left_out += 1;
        }
        if proven && ts > thread.until_ns {
            let from = e.since_ns.max(thread.until_ns);
            let mut woken = thread.woken.take();
            let held = &mut thread.held;
            threads.walk(tid, from, ts, |s, end, piece| {
                let Some(piece) = piece else { return };
                let Some(mut slice) = state(piece, s, end) else { return };
                if let Some((at, flow)) = woken.take() {
                    if at == s && piece.state == ThreadState::RunnableWoken {
                        slice.to.push(flow);
                    } else {
                        held.push_back(was_woken(at, flow));
                    }
                }
                if piece.state.is_runnable() {
                    slice.inner = ahead(trace, piece, (tid, s, end), cpus, tracks, whose);
                }
                held.push_back(slice);
            });
            if thread.woken.is_none() {
                thread.woken = woken;
            }
            thread.until_ns = ts;
        }
        if e.to == ThreadState::RunnableWoken as u8 && e.from != e.to {
            self.wake(trace, e)?;
        }
        Ok(())
    }

    /// Draws who woke a thread, where that is another thread of the target that is known.
    fn wake(&mut self, trace: &mut Trace, e: &ThreadEvent) -> Result<()> {
        let (tid, ts, waker) = (e.header.tid, e.header.ts_ns, e.peer_tid);
        let late = ts < self.wakes.last_ns;
        if waker == 0 || waker == tid || late || !self.by_tid.contains_key(&waker) {
            return Ok(());
        }
        let Some(thread) = self.by_tid.get_mut(&tid).filter(|t| t.woken.is_none()) else {
            return Ok(());
        };
        if ts < thread.until_ns {
            return Ok(());
        }
        let flow = trace.flow();
        let mut wakes = Slice::new(ts, ts, OfThread::Wakes);
        wakes.args = vec![("tid", Value::Number(tid.into()))];
        wakes.from.push(flow);
        if trace.instant_on(&mut self.wakes, track(Kind::Thread, self.target, waker, 0), wakes)? {
            thread.woken = Some((ts, flow));
            thread.until_ns = ts;
        }
        Ok(())
    }

    /// Writes what was over by `until_ns`.
    pub(super) fn flush(&mut self, trace: &mut Trace, until_ns: u64) -> Result<()> {
        for thread in self.by_tid.values_mut() {
            let due = thread.held.partition_point(|s| s.end_ns <= until_ns);
            for slice in thread.held.drain(..due) {
                let put = trace.slice(&mut thread.lane, slice)?;
                self.left_out += u64::from(!put);
            }
        }
        Ok(())
    }

    /// The stream has ended: wakeups that led to nothing known end here.
    pub(super) fn end(&mut self, trace: &mut Trace) -> Result<()> {
        for thread in self.by_tid.values_mut() {
            if let Some((at, flow)) = thread.woken.take() {
                thread.held.push_back(was_woken(at, flow));
            }
        }
        self.flush(trace, u64::MAX)
    }
}

fn was_woken(at: u64, flow: u64) -> Of {
    let mut woken = Slice::new(at, at, OfThread::Woken);
    woken.to.push(flow);
    woken
}

/// A state as a slice.
fn state(piece: &Piece, from: u64, to: u64) -> Option<Of> {
    let mut args: Vec<Arg> = Vec::new();
    let name = match piece.state {
        ThreadState::Running => {
            let missed = piece.missed(from, to);
            for (what, ns) in [("irq_ns", missed.irq_ns), ("stolen_ns", missed.stolen_ns)] {
                args.extend((ns > 0).then_some((what, Value::Number(ns))));
            }
            OfThread::Running(piece.cpu?)
        }
        ThreadState::Blocked => OfThread::Asleep(piece.syscall),
        ThreadState::BlockedUninterruptible => OfThread::Uninterruptible(piece.syscall),
        ThreadState::Stopped => OfThread::Stopped,
        ThreadState::Unknown | ThreadState::Exited => return None,
        state => {
            args.extend(piece.cpu.map(|cpu| ("cpu", Value::Number(cpu.into()))));
            if let Some((_, _, ns)) = piece.throttled_again() {
                args.push(("throttled_ns", Value::Number(ns)));
            }
            OfThread::Runnable(Wait::of(state)?)
        }
    };
    Some(Slice { args, ..Slice::new(from, to, name) })
}

/// Who was ahead of a waiting thread, and when.
fn ahead(
    trace: &mut Trace,
    piece: &Piece,
    (tid, from, to): (u32, u64, u64),
    cpus: &Cpus,
    tracks: &mut CpuTracks,
    whose: WhoseIs<'_>,
) -> Vec<Of> {
    let mut inner: Vec<Of> = Vec::new();
    // When a quota kept it off in several pieces is not known: so neither is when somebody else did.
    let Some(cpu) = piece.cpu.filter(|_| piece.throttled_again().is_none()) else { return inner };
    let (off, on) = piece.throttled(from, to);
    if off < on {
        inner.push(Slice::new(off, on, OfThread::Throttled));
    }
    for (s, e) in [(from, off.max(from)), (on.max(from), to)] {
        if s >= e || off >= on && s != from {
            continue;
        }
        cpus.walk(cpu, s, e, |s, e, slice| {
            // A thread does not wait behind itself: such a slice contradicts the wait.
            let Some(slice) = slice.filter(|slice| slice.tid != tid) else { return };
            if inner.len() >= MAX_INNER {
                return;
            }
            if slice.tid == 0 {
                inner.push(Slice::new(s, e, OfThread::CpuIdle));
                return;
            }
            let task = Task {
                tgid: slice.tgid,
                tid: if whose(slice.tgid) == Whose::Target { slice.tid } else { 0 },
                comm: slice.comm,
                whose: whose(slice.tgid),
            };
            let mut behind = Slice::new(s, e, OfThread::Behind(task));
            behind.args = vec![
                ("pid", Value::Number(slice.tgid.into())),
                ("tid", Value::Number(slice.tid.into())),
            ];
            // Arrows from all of many short slices would hide the wait.
            if (e - s).saturating_mul(10) >= to - from {
                behind.to.extend(tracks.flow_from(trace, cpu, (slice.start_ns, slice.tid), to));
            }
            inner.push(behind);
        });
    }
    inner.sort_by_key(|s| s.start_ns);
    inner
}
