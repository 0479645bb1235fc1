"""Reads a trace with Perfetto's published message definitions (the package `perfetto`), follows its rules as the trace
processor does, and compares what comes out with `g211s report --json` of the same recording.

usage: check_perfetto.py TRACE REPORT.json
Prints one line of figures as JSON; any rule that is broken ends it with an error.
"""

import collections
import json
import sys
import zlib

from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
CLEARED, NEEDS_STATE = 1, 2


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def packets(data):
    """A trace is field 1, over and over; bundles of packets are compressed."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        assert tag == 1 << 3 | 2, f"byte {at}: tag {tag} is no packet"
        size, at = varint(data, at)
        assert at + size <= len(data), "the last packet is cut off"
        packet = pb.TracePacket()
        packet.ParseFromString(data[at : at + size])
        at += size
        if packet.HasField("compressed_packets"):
            yield from packets(zlib.decompress(packet.compressed_packets))
        else:
            yield packet


class Sequence:
    def __init__(self):
        self.clear()
        self.last_ns = 0

    def clear(self):
        self.names, self.arg_names, self.categories, self.track = {}, {}, {}, 0

    def take(self, packet):
        if packet.sequence_flags & CLEARED:
            self.clear()
        if packet.HasField("trace_packet_defaults"):
            self.track = packet.trace_packet_defaults.track_event_defaults.track_uuid
        data = packet.interned_data
        for kind, known in (
            (data.event_names, self.names),
            (data.debug_annotation_names, self.arg_names),
            (data.event_categories, self.categories),
        ):
            for entry in kind:
                assert entry.iid not in known, f"iid {entry.iid} is given twice"
                known[entry.iid] = entry.name


def value(annotation, sequence):
    name = sequence.arg_names[annotation.name_iid] if annotation.name_iid else None
    kind = annotation.WhichOneof("value")
    if kind is not None:
        return name, getattr(annotation, kind)
    if annotation.array_values:
        return name, [value(v, sequence)[1] for v in annotation.array_values]
    return name, dict(value(v, sequence) for v in annotation.dict_entries)


def read(path):
    tracks, sequences, events = {}, collections.defaultdict(Sequence), []
    clock = None
    with open(path, "rb") as file:
        data = file.read()
    for order, packet in enumerate(packets(data)):
        for message in (packet, packet.track_event, packet.track_descriptor, packet.interned_data):
            assert not list(UnknownFieldSet(message)), "a field that Perfetto does not know"
        if packet.HasField("clock_snapshot"):
            clock = packet.clock_snapshot
            continue
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            if track.HasField("parent_uuid"):
                assert track.parent_uuid in tracks, f"{track.name}: its parent is not declared"
            tracks[track.uuid] = pb.TrackDescriptor.FromString(track.SerializeToString())
            continue
        if not packet.HasField("track_event"):
            continue
        sequence = sequences[packet.trusted_packet_sequence_id]
        sequence.take(packet)
        assert packet.sequence_flags & NEEDS_STATE
        ts = packet.timestamp
        assert ts >= sequence.last_ns, f"sequence {packet.trusted_packet_sequence_id} goes back in time"
        sequence.last_ns = ts
        event = packet.track_event
        uuid = event.track_uuid or sequence.track
        assert uuid in tracks, f"track {uuid:#x} is not declared before it is used"
        is_counter = tracks[uuid].HasField("counter")
        assert is_counter == (event.type == COUNTER), "a counter track has counts, no other has"
        name = None
        if event.type in (BEGIN, INSTANT):
            name = sequence.names[event.name_iid]
            assert [sequence.categories[i] for i in event.category_iids]
        args = dict(value(a, sequence) for a in event.debug_annotations)
        count = event.counter_value if event.HasField("counter_value") else event.double_counter_value
        flows = (list(event.flow_ids), list(event.terminating_flow_ids))
        events.append((ts, order, event.type, uuid, name, args, flows, count))
    assert clock is not None and clock.primary_trace_clock == pb.BUILTIN_CLOCK_MONOTONIC
    return tracks, sequences, events


def slices_of(events):
    """The trace processor's way: by time, and by order in the file where that is the same; slices nest on a track."""
    events.sort(key=lambda e: (e[0], e[1]))
    open_, out, counts = collections.defaultdict(list), [], collections.defaultdict(list)
    sources, arrows = {}, []
    for ts, _, kind, uuid, name, args, (begin, end), count in events:
        if kind == COUNTER:
            counts[uuid].append((ts, count))
            continue
        if kind == END:
            assert open_[uuid], f"{ts}: an end without a beginning"
            slice_ = open_[uuid].pop()
            slice_["dur"] = ts - slice_["ts"]
            assert slice_["dur"] > 0
            continue
        slice_ = {"ts": ts, "dur": 0, "track": uuid, "name": name, "args": args, "depth": len(open_[uuid])}
        if open_[uuid]:
            slice_["parent_ts"] = open_[uuid][-1]["ts"]
        out.append(slice_)
        for flow in begin:
            assert flow not in sources, f"flow {flow} begins twice"
            sources[flow] = slice_
        for flow in end:
            source = sources.pop(flow, None)
            assert source is not None, f"flow {flow} ends before it begins"
            assert source["ts"] <= ts
            arrows.append((source, slice_))
        if kind == BEGIN:
            open_[uuid].append(slice_)
    assert not any(open_.values()), "a beginning without an end"
    assert not sources, f"{len(sources)} flows never end"
    return out, counts, arrows


def main():
    trace, report_path = sys.argv[1:3]
    with open(report_path, encoding="utf-8") as file:
        report = json.load(file)
    tracks, sequences, events = read(trace)
    slices, counts, arrows = slices_of(events)
    targets = [report, *report["others"]]
    names = {uuid: t.name for uuid, t in tracks.items()}
    process_of = lambda uuid: tracks[uuid].process.pid or tracks[tracks[uuid].parent_uuid].process.pid
    for target in targets:
        tgid = target["target"]["tgid"]
        own = [s for s in slices if s["depth"] == 0 and s["track"] in names]
        stops = [
            s for s in own
            if names[s["track"]] == "Stops of the world" and process_of(s["track"]) == tgid and "verdict" in s["args"]
        ]
        ours = sorted((s["args"]["n"], s["ts"], s["dur"]) for s in stops)
        theirs = sorted((s["n"], s["start_ns"], s["total_ns"]) for s in target["stw"])
        assert ours == theirs, f"stops of {tgid}: {len(ours)} and {len(theirs)}"
        assert sum(s["dur"] for s in stops) == target["stw_totals"]["total_ns"]
        assert len(stops) == target["stw_totals"]["count"]
        by_n = {s["n"]: s for s in target["stw"]}
        tracks_of_stops = {s["track"] for s in stops}
        halves = collections.defaultdict(int)
        for i in slices:
            if i["depth"] == 1 and i["track"] in tracks_of_stops:
                halves[i["track"], i["parent_ts"]] += i["dur"]
        for s in stops:
            causes = s["args"].get("causes", [])
            told = [(c["kind"], c["ns"], c["tid"]) for c in by_n[s["args"]["n"]]["causes"]]
            assert [(c["kind"], c["ns"], c["tid"]) for c in causes] == told
            assert halves[s["track"], s["ts"]] == s["dur"], "stopping and stopped are the stop"
        cycles = [
            s for s in own
            if names[s["track"]] == "GC cycles" and process_of(s["track"]) == tgid and "not_seen" not in s["args"]
        ]
        assert sorted((s["ts"], s["dur"]) for s in cycles) == sorted(
            (c["start_ns"], c["duration_ns"]) for c in target["gc"]["cycles"]
        ), f"cycles of {tgid}"
    thread_tracks = {uuid for uuid, t in tracks.items() if t.HasField("thread")}
    states = [s for s in slices if s["track"] in thread_tracks and s["depth"] == 0 and s["dur"]]
    by_thread = collections.defaultdict(list)
    for s in states:
        by_thread[s["track"]].append(s)
    for of in by_thread.values():
        of.sort(key=lambda s: s["ts"])
        for a, b in zip(of, of[1:]):
            assert a["ts"] + a["dur"] <= b["ts"], "states of a thread overlap"
    kinds = collections.Counter()
    for s in states:
        word = s["name"].split()[0]
        kinds[word] += s["dur"]
    wakes = sum(1 for source, _ in arrows if source["name"] == "wakes")
    to_waits = sum(1 for _, to in arrows if to["name"] == "runnable (woken)")
    print(json.dumps({
        "tracks": len(tracks), "sequences": len(sequences), "events": len(events), "slices": len(slices),
        "threads": len(by_thread), "states": len(states), "state_ns": kinds,
        "counters": {names[uuid]: len(c) for uuid, c in counts.items()},
        "last": {names[uuid]: c[-1][1] for uuid, c in counts.items()},
        "wakeups": wakes, "wakeups_to_waits": to_waits, "culprits": len(arrows) - wakes,
        "stops": sum(len(t["stw"]) for t in targets), "cycles": sum(len(t["gc"]["cycles"]) for t in targets),
    }))


main()
