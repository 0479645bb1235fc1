//! Writing a trace: packets into compressed bundles, texts once a sequence, slices on lanes. Must not know what the
//! slices mean.
//!
//! Two rules make every trace well-formed, whatever a recording holds:
//!
//! - A lane is one track, written by one sequence of packets, and takes nothing that begins before what it has already.
//!   So times never go back on a sequence, and slices of a track never overlap but nest.
//! - A slice is written whole: its beginning, what is nested in it, its end.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, write::ZlibEncoder};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::proto::{
    self, BEGIN, CLEARED, COUNTER, Clock, ClockSnapshot, DebugAnnotation, END, INSTANT, Interned,
    InternedData, NEEDS_STATE, TracePacket, TracePacketDefaults, TrackDescriptor, TrackEvent,
    TrackEventDefaults,
};
use crate::export::output::Output;

/// Packets of this many bytes are compressed together.
const BUNDLE: usize = 256 << 10;
/// Names that one sequence interns at most; beyond it they start anew.
const MAX_NAMES: usize = 4096;
/// `Trace.packet`.
const PACKET: u32 = 1;

/// The name of a slice: cheap to compare, and turned into text when it is met first.
pub(super) trait Name: Copy + Eq + Hash {
    fn text(&self) -> String;
}

impl Name for &'static str {
    fn text(&self) -> String {
        (*self).to_owned()
    }
}

/// A value with a name, in a slice's details.
pub(super) enum Value {
    Text(String),
    Number(u64),
    Signed(i64),
    Flag(bool),
    /// Each with its own names.
    List(Vec<Vec<Arg>>),
}

pub(super) type Arg = (&'static str, Value);

/// A slice, or an instant where both times are the same.
pub(super) struct Slice<N> {
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) name: N,
    pub(super) args: Vec<Arg>,
    /// Flows that begin here.
    pub(super) from: Vec<u64>,
    /// Flows that end here.
    pub(super) to: Vec<u64>,
    /// Within it, by time, none overlapping another.
    pub(super) inner: Vec<Slice<N>>,
}

impl<N> Slice<N> {
    pub(super) fn new(start_ns: u64, end_ns: u64, name: N) -> Self {
        Self {
            start_ns,
            end_ns,
            name,
            args: Vec::new(),
            from: Vec::new(),
            to: Vec::new(),
            inner: Vec::new(),
        }
    }
}

/// A track, and the sequence that writes it.
pub(super) struct Lane<N> {
    sequence: u32,
    track: u64,
    category: &'static str,
    begun: bool,
    /// The time of the last packet.
    pub(super) last_ns: u64,
    names: HashMap<N, u64>,
    arg_names: HashMap<&'static str, u64>,
}

/// The file.
pub(super) struct Trace {
    out: Output,
    packets: Vec<u8>,
    encoded: Vec<u8>,
    sequences: u32,
    flows: u64,
}

impl Trace {
    pub(super) fn new(out: Output) -> Self {
        Self { out, packets: Vec::new(), encoded: Vec::new(), sequences: 0, flows: 0 }
    }

    /// A flow that nothing else has.
    pub(super) fn flow(&mut self) -> u64 {
        self.flows += 1;
        self.flows
    }

    /// Writes a packet.
    fn packet(&mut self, packet: &TracePacket) -> Result<()> {
        self.encoded.clear();
        packet.encode(&mut self.encoded).context("a packet")?;
        encode_key(PACKET, WireType::LengthDelimited, &mut self.packets);
        encode_varint(self.encoded.len() as u64, &mut self.packets);
        self.packets.extend_from_slice(&self.encoded);
        if self.packets.len() >= BUNDLE { self.bundle() } else { Ok(()) }
    }

    fn bundle(&mut self) -> Result<()> {
        if self.packets.is_empty() {
            return Ok(());
        }
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&self.packets).context("compressing")?;
        self.packets.clear();
        let bundle = TracePacket {
            compressed_packets: Some(zlib.finish().context("compressing")?),
            ..TracePacket::default()
        };
        let mut head = Vec::new();
        encode_key(PACKET, WireType::LengthDelimited, &mut head);
        encode_varint(bundle.encoded_len() as u64, &mut head);
        bundle.encode(&mut head).context("a packet")?;
        self.out.write_all(&head).map_err(|e| self.out.error(e))
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<()> {
        self.bundle()?;
        self.out.finish()
    }

    /// The head: which clock times are of, and what it was in the world's time.
    pub(super) fn head(
        &mut self,
        monotonic_ns: u64,
        wall_ns: u64,
        kernel: String,
        machine: String,
    ) -> Result<()> {
        let clock = |id, ns| Clock { clock_id: Some(id), timestamp: Some(ns) };
        let sequence = self.sequence();
        self.packet(&TracePacket {
            trusted_packet_sequence_id: Some(sequence),
            clock_snapshot: Some(ClockSnapshot {
                clocks: vec![
                    clock(proto::MONOTONIC, monotonic_ns),
                    clock(proto::REALTIME, wall_ns),
                ],
                primary_trace_clock: Some(proto::MONOTONIC as i32),
            }),
            ..TracePacket::default()
        })?;
        self.packet(&TracePacket {
            trusted_packet_sequence_id: Some(sequence),
            system_info: Some(proto::SystemInfo {
                utsname: Some(proto::Utsname {
                    sysname: Some("Linux".to_owned()),
                    release: Some(kernel),
                    machine: Some(machine),
                }),
            }),
            ..TracePacket::default()
        })
    }

    fn sequence(&mut self) -> u32 {
        self.sequences += 1;
        self.sequences
    }

    /// Declares a track; may be said again with a better name.
    pub(super) fn declare(&mut self, track: TrackDescriptor) -> Result<()> {
        self.packet(&TracePacket { track_descriptor: Some(track), ..TracePacket::default() })
    }

    /// A lane on a declared track.
    pub(super) fn lane<N: Name>(&mut self, track: u64, category: &'static str) -> Lane<N> {
        Lane {
            sequence: self.sequence(),
            track,
            category,
            begun: false,
            last_ns: 0,
            names: HashMap::new(),
            arg_names: HashMap::new(),
        }
    }

    /// Writes a slice; false if the lane is beyond its beginning: nothing is written then.
    pub(super) fn slice<N: Name>(&mut self, lane: &mut Lane<N>, slice: Slice<N>) -> Result<bool> {
        if slice.start_ns < lane.last_ns || slice.end_ns < slice.start_ns {
            return Ok(false);
        }
        self.nested(lane, slice, None)?;
        Ok(true)
    }

    /// Writes an instant on another track than the lane's own; false as [`Trace::slice`].
    pub(super) fn instant_on<N: Name>(
        &mut self,
        lane: &mut Lane<N>,
        track: u64,
        slice: Slice<N>,
    ) -> Result<bool> {
        if slice.start_ns < lane.last_ns {
            return Ok(false);
        }
        self.nested(lane, slice, Some(track))?;
        Ok(true)
    }

    fn nested<N: Name>(&mut self, lane: &mut Lane<N>, s: Slice<N>, on: Option<u64>) -> Result<()> {
        let Slice { start_ns, end_ns, name, args, from, to, inner } = s;
        let instant = end_ns <= start_ns;
        let mut texts = InternedData::default();
        let category_iids = vec![1];
        let name_iid = Some(lane.name(name, &mut texts));
        let debug_annotations = args.into_iter().map(|arg| lane.arg(arg, &mut texts)).collect();
        let event = TrackEvent {
            category_iids,
            debug_annotations,
            r#type: Some(if instant { INSTANT } else { BEGIN }),
            name_iid,
            track_uuid: on,
            flow_ids: from,
            terminating_flow_ids: to,
            ..TrackEvent::default()
        };
        self.event(lane, start_ns, event, texts)?;
        for child in inner {
            // What does not fit into its parent, or begins before its elder sibling is over, would break the nesting.
            let start = child.start_ns.max(lane.last_ns).max(start_ns);
            let end = child.end_ns.min(end_ns);
            if start < end {
                self.nested(lane, Slice { start_ns: start, end_ns: end, ..child }, None)?;
            } else if !child.from.is_empty() || !child.to.is_empty() {
                let at = start.min(end_ns);
                self.nested(lane, Slice { start_ns: at, end_ns: at, ..child }, None)?;
            }
        }
        if !instant {
            let event = TrackEvent { r#type: Some(END), ..TrackEvent::default() };
            self.event(lane, end_ns, event, InternedData::default())?;
        }
        Ok(())
    }

    /// Writes a counter's value; dropped if the lane is beyond that time.
    pub(super) fn count<N: Name>(
        &mut self,
        lane: &mut Lane<N>,
        ts_ns: u64,
        value: Count,
    ) -> Result<()> {
        if ts_ns < lane.last_ns {
            return Ok(());
        }
        let mut event = TrackEvent { r#type: Some(COUNTER), ..TrackEvent::default() };
        match value {
            Count::Whole(n) => event.counter_value = Some(i64::try_from(n).unwrap_or(i64::MAX)),
            Count::Part(n) => event.double_counter_value = Some(n),
        }
        self.event(lane, ts_ns, event, InternedData::default())
    }

    fn event<N: Name>(
        &mut self,
        lane: &mut Lane<N>,
        ts_ns: u64,
        event: TrackEvent,
        mut texts: InternedData,
    ) -> Result<()> {
        lane.last_ns = ts_ns;
        let mut packet = TracePacket {
            timestamp: Some(ts_ns),
            trusted_packet_sequence_id: Some(lane.sequence),
            sequence_flags: Some(NEEDS_STATE),
            ..TracePacket::default()
        };
        if !lane.begun {
            lane.begun = true;
            packet.sequence_flags = Some(CLEARED | NEEDS_STATE);
            let defaults = TrackEventDefaults { track_uuid: Some(lane.track) };
            packet.defaults = Some(TracePacketDefaults { track_event_defaults: Some(defaults) });
            texts.event_categories.push(interned(1, lane.category.to_owned()));
        }
        let empty = texts.event_categories.is_empty()
            && texts.event_names.is_empty()
            && texts.debug_annotation_names.is_empty();
        packet.interned_data = (!empty).then_some(texts);
        packet.track_event = Some(event);
        self.packet(&packet)
    }
}

/// A counter's value.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Count {
    Whole(u64),
    Part(f64),
}

fn interned(iid: u64, name: String) -> Interned {
    Interned { iid: Some(iid), name: Some(name) }
}

impl<N: Name> Lane<N> {
    /// The number of a name, with its text where it is new.
    fn name(&mut self, name: N, texts: &mut InternedData) -> u64 {
        if let Some(known) = self.names.get(&name) {
            return *known;
        }
        if self.names.len() >= MAX_NAMES {
            // All is said anew, with the packet that comes.
            self.begun = false;
            self.names.clear();
            self.arg_names.clear();
        }
        let iid = self.names.len() as u64 + 1;
        self.names.insert(name, iid);
        texts.event_names.push(interned(iid, name.text()));
        iid
    }

    fn arg_name(&mut self, name: &'static str, texts: &mut InternedData) -> u64 {
        let next = self.arg_names.len() as u64 + 1;
        *self.arg_names.entry(name).or_insert_with(|| {
            texts.debug_annotation_names.push(interned(next, name.to_owned()));
            next
        })
    }

    fn arg(&mut self, (name, value): Arg, texts: &mut InternedData) -> DebugAnnotation {
        let name_iid = Some(self.arg_name(name, texts));
        let mut out = DebugAnnotation { name_iid, ..DebugAnnotation::default() };
        match value {
            Value::Text(text) => out.string_value = Some(text),
            Value::Number(n) => out.uint_value = Some(n),
            Value::Signed(n) => out.int_value = Some(n),
            Value::Flag(flag) => out.bool_value = Some(flag),
            Value::List(items) => {
                let item = |args: Vec<Arg>| DebugAnnotation {
                    dict_entries: args.into_iter().map(|a| self.arg(a, texts)).collect(),
                    ..DebugAnnotation::default()
                };
                out.array_values = items.into_iter().map(item).collect();
            }
        }
        out
    }
}

/// Lanes beside one another: what overlaps goes to the next.
pub(super) struct Lanes<N> {
    lanes: Vec<Lane<N>>,
}

/// Slices that overlap one another at most; more are left out.
pub(super) const MAX_LANES: usize = 64;

impl<N: Name> Lanes<N> {
    pub(super) fn new() -> Self {
        Self { lanes: Vec::new() }
    }

    /// Writes a slice to the first lane that has room; `open` makes the next lane. False if there were too many.
    pub(super) fn put(
        &mut self,
        trace: &mut Trace,
        slice: Slice<N>,
        open: impl FnOnce(&mut Trace, usize) -> Result<Lane<N>>,
    ) -> Result<bool> {
        if let Some(lane) = self.lanes.iter_mut().find(|l| l.last_ns <= slice.start_ns) {
            return trace.slice(lane, slice);
        }
        if self.lanes.len() >= MAX_LANES {
            return Ok(false);
        }
        let mut lane = open(trace, self.lanes.len())?;
        let written = trace.slice(&mut lane, slice)?;
        self.lanes.push(lane);
        Ok(written)
    }
}
