//! Traces follow Perfetto's rules whatever a recording holds. The same rules, with Perfetto's own definitions of the
//! messages, are in `tests/python/check_perfetto.py`.

use std::collections::{HashMap, HashSet};
use std::io::Read as _;

use g211s_ebpf::event::{
    EventKind, Header, NO_TARGET, SliceEvent, SpanEvent, ThreadEvent, ThreadState,
};
use proptest::prelude::*;
use prost::Message as _;
use prost::bytes::Buf as _;
use prost::encoding::{decode_key, decode_varint};

use super::proto::{BEGIN, CLEARED, COUNTER, END, INSTANT, TracePacket};
use crate::event::Event;
use crate::export::tests::{Folder, all, export, records, scene, start};
use crate::model::ascii::TGID;
use crate::record::Record;

fn packets(mut bytes: &[u8], out: &mut Vec<TracePacket>) {
    while bytes.has_remaining() {
        assert_eq!(decode_key(&mut bytes).unwrap().0, 1);
        let size = decode_varint(&mut bytes).unwrap() as usize;
        let (packet, rest) = bytes.split_at(size);
        bytes = rest;
        let packet = TracePacket::decode(packet).unwrap();
        match &packet.compressed_packets {
            Some(bundle) => {
                let mut raw = Vec::new();
                flate2::read::ZlibDecoder::new(&bundle[..]).read_to_end(&mut raw).unwrap();
                packets(&raw, out);
            }
            None => out.push(packet),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    track: u64,
    name: String,
    start_ns: u64,
    end_ns: u64,
    depth: usize,
}

#[derive(Debug, Default)]
struct Read {
    slices: Vec<Seen>,
    /// Names of what an arrow comes from and goes to.
    arrows: Vec<(String, String)>,
    counts: HashMap<u64, Vec<f64>>,
    tracks: HashMap<u64, String>,
}

/// What a reader of traces makes of these records.
fn read(records: Vec<Record>) -> Read {
    let folder = Folder::new();
    let file = folder.0.join("a.pftrace");
    export(&all(&folder.0), records).unwrap();
    let mut all = Vec::new();
    packets(&std::fs::read(&file).unwrap(), &mut all);
    let mut out = Read::default();
    let mut last: HashMap<u32, u64> = HashMap::new();
    let mut names: HashMap<(u32, u64), String> = HashMap::new();
    let mut default: HashMap<u32, u64> = HashMap::new();
    let mut events = Vec::new();
    for packet in all {
        if let Some(track) = packet.track_descriptor {
            if let Some(parent) = track.parent_uuid {
                assert!(out.tracks.contains_key(&parent), "a parent that is not declared");
            }
            let thread = track.thread.and_then(|t| t.thread_name);
            out.tracks.insert(track.uuid.unwrap(), track.name.or(thread).unwrap_or_default());
            continue;
        }
        let Some(event) = packet.track_event else { continue };
        let (sequence, ts) =
            (packet.trusted_packet_sequence_id.unwrap(), packet.timestamp.unwrap());
        assert!(last.insert(sequence, ts).is_none_or(|last| last <= ts), "back in time");
        if packet.sequence_flags.unwrap() & CLEARED != 0 {
            names.retain(|(of, _), _| *of != sequence);
        }
        if let Some(d) = packet.defaults {
            default.insert(sequence, d.track_event_defaults.unwrap().track_uuid.unwrap());
        }
        for name in packet.interned_data.unwrap_or_default().event_names {
            let old = names.insert((sequence, name.iid.unwrap()), name.name.unwrap());
            assert_eq!(old, None, "a number that is given twice");
        }
        let track = event.track_uuid.or(default.get(&sequence).copied()).unwrap();
        assert!(out.tracks.contains_key(&track), "a track that is not declared");
        let name = event.name_iid.map(|iid| names[&(sequence, iid)].clone()).unwrap_or_default();
        events.push((ts, track, name, event));
    }
    events.sort_by_key(|e| e.0);
    let mut open: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut flows: HashMap<u64, usize> = HashMap::new();
    let mut used = HashSet::new();
    for (ts, track, name, event) in events {
        let kind = event.r#type.unwrap();
        if kind == COUNTER {
            let whole = event.counter_value.map(|n| n as f64);
            out.counts
                .entry(track)
                .or_default()
                .push(whole.or(event.double_counter_value).unwrap());
            continue;
        }
        let stack = open.entry(track).or_default();
        if kind == END {
            let slice = stack.pop().expect("an end without a beginning");
            out.slices[slice].end_ns = ts;
            continue;
        }
        assert!(kind == BEGIN || kind == INSTANT);
        let index = out.slices.len();
        let depth = stack.len();
        out.slices.push(Seen { track, name, start_ns: ts, end_ns: ts, depth });
        for flow in event.flow_ids {
            assert!(used.insert(flow), "a flow begins twice");
            flows.insert(flow, index);
        }
        for flow in event.terminating_flow_ids {
            let from = flows.remove(&flow).expect("a flow that ends before it begins");
            out.arrows.push((out.slices[from].name.clone(), out.slices[index].name.clone()));
        }
        if kind == BEGIN {
            stack.push(index);
        }
    }
    assert!(open.values().all(Vec::is_empty), "a beginning without an end");
    assert!(flows.is_empty(), "a flow without an end");
    out
}

#[test]
fn states_waits_wakers_and_culprits() {
    let seen = read(records(&scene()));
    let track = |name: &str| *seen.tracks.iter().find(|(_, n)| *n == name).unwrap().0;
    let on = |name: &str, depth: usize| -> Vec<(String, u64, u64)> {
        let of = track(name);
        let found = seen.slices.iter().filter(|s| s.track == of && s.depth == depth);
        found.map(|s| (s.name.clone(), s.start_ns / 1_000_000, s.end_ns / 1_000_000)).collect()
    };
    // Names of Ms are told at the end.
    let second = on("M 12 (svc)", 0);
    let states: Vec<&str> = second.iter().map(|s| &*s.0).filter(|n| *n != "wakes").collect();
    let expected =
        ["running on CPU 1", "runnable (preempted)", "running on CPU 1", "asleep in futex"];
    assert_eq!(states, expected);
    assert!(second.contains(&("runnable (preempted)".to_owned(), 10, 48)), "{second:?}");
    assert_eq!(
        on("M 12 (svc)", 1).iter().filter(|s| s.0 != "wakes").cloned().collect::<Vec<_>>(),
        [("behind stress (pid 9)".to_owned(), 10, 40), ("the CPU was idle".to_owned(), 40, 48)]
    );
    assert!(on("CPU 1", 0).contains(&("stress (pid 9)".to_owned(), 10, 40)), "{seen:?}");
    let arrow = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert!(seen.arrows.contains(&arrow("stress (pid 9)", "behind stress (pid 9)")), "{seen:?}");
    assert!(seen.arrows.contains(&arrow("wakes", "runnable (woken)")), "{seen:?}");
    assert_eq!(seen.counts[&track("Live heap")], [1000.0, 3000.0]);
    assert_eq!(seen.counts[&track("Goroutines")], [7.0, 9.0]);
}

fn any_event() -> impl Strategy<Value = Event> {
    let small = 0u64..200;
    let header = |kind: EventKind| {
        (0u64..200, prop_oneof![Just(0u8), Just(NO_TARGET)], 0u16..3, 0u32..6).prop_map(
            move |(ts_ns, target, cpu, tid)| Header { ts_ns, kind: kind as u8, target, cpu, tid },
        )
    };
    let thread = (header(EventKind::Thread), small.clone(), small.clone(), 0u8..9, 0u8..9, 0u32..6);
    let thread = (thread, any::<u8>(), 0u32..30, 0u32..30).prop_map(
        |((header, since_ns, queued_ns, from, to, peer_tid), bits, kept_off_ns, after)| {
            Event::Thread(ThreadEvent {
                header: Header { target: 0, ..header },
                since_ns,
                queued_ns,
                window: 1,
                syscall: i32::from(bits % 5) - 2,
                peer_tid,
                prev_cpu: header.cpu,
                from: ThreadState::ALL[usize::from(from)] as u8,
                to: ThreadState::ALL[usize::from(to)] as u8,
                flags: bits.into(),
                irq_ns: 3,
                kept_off_ns,
                kept_off_after_ns: after,
            })
        },
    );
    let slice = (header(EventKind::Slice), small.clone(), small.clone(), 0u32..3).prop_map(
        |(header, start_ns, length, flags)| {
            let ts_ns = header.ts_ns.max(start_ns + length);
            Event::Slice(SliceEvent {
                header: Header { ts_ns, ..header },
                start_ns,
                end_ns: start_ns + length,
                tgid: if header.tid < 3 { TGID } else { header.tid },
                flags,
                comm: *b"somebody\0\0\0\0\0\0\0\0",
            })
        },
    );
    let span = (header(EventKind::Span), small, 1u32..4, any::<u8>()).prop_map(
        |(header, start_ns, what, bits)| {
            Event::Span(SpanEvent {
                header: Header { target: 0, ..header },
                what,
                detail: i32::from(bits) - 3,
                start_ns,
                middle_ns: u64::from(bits % 2),
                id: u64::from(bits % 4),
            })
        },
    );
    prop_oneof![4 => thread, 2 => slice, 1 => span]
}

proptest! {
    #[test]
    fn whatever_comes_is_well_formed(
        mut events in prop::collection::vec(any_event(), 0..120),
        ordered: bool,
        unit in prop_oneof![Just(1u64), Just(10_000_000)],
    ) {
        if ordered {
            events.sort_by_key(|e| e.header().ts_ns);
        }
        let scale = |e: Event| match e {
            Event::Thread(mut e) => {
                e.header.ts_ns *= unit;
                e.since_ns *= unit;
                e.queued_ns *= unit;
                Event::Thread(e)
            }
            Event::Slice(mut e) => {
                e.header.ts_ns *= unit;
                e.start_ns *= unit;
                e.end_ns *= unit;
                Event::Slice(e)
            }
            Event::Span(mut e) => {
                e.header.ts_ns *= unit;
                e.start_ns *= unit;
                Event::Span(e)
            }
            other => other,
        };
        let events = events.into_iter().map(scale).map(Record::Event);
        let seen = read(std::iter::once(start()).chain(events).collect());
        // The states of a thread never overlap.
        let mut by_track: HashMap<u64, u64> = HashMap::new();
        for s in seen.slices.iter().filter(|s| s.depth == 0 && s.end_ns > s.start_ns) {
            let end = by_track.entry(s.track).or_default();
            prop_assert!(*end <= s.start_ns, "{:?}", s);
            *end = s.end_ns;
        }
    }
}
