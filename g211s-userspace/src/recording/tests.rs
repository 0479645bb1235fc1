//! What goes into a recording comes out of it, and nothing else can make the reader fall over.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use g211s_ebpf::event::{
    Header, Life, LifeEvent, NO_SYSCALL, NO_TARGET, ProbeEvent, SliceEvent, THREAD_FULL,
    ThreadEvent, ThreadState,
};
use proptest::prelude::*;

use super::writer::block_header;
use super::*;
use crate::event::Event;
use crate::record::{Interval, Moment, Notice, Record, RuntimeSample, StwSample, Target};
use crate::runtime::histogram::TimeHist;

/// A small deterministic generator.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// About exponential, mean `mean`.
    fn wait(&mut self, mean: f64) -> u64 {
        let u = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        (-(1.0 - u).ln() * mean) as u64
    }
}

/// A made-up host: 4 CPUs, a Go service of 24 threads and 40 foreign ones that sleep, wake, wait
/// and run. Times are random to the nanosecond, as real ones are.
fn scheduler_stream(events: usize, seed: u64) -> Vec<Record> {
    #[derive(Clone)]
    struct Thread {
        tid: u32,
        since: u64,
        state: ThreadState,
        syscall: i32,
    }
    let mut rng = Rng(seed);
    let mut now = 1_234_567_890_123;
    let mut threads: Vec<Thread> = (0..64)
        .map(|i| Thread {
            tid: 48_200 + i * 3,
            since: now - 1_000_000,
            state: ThreadState::Blocked,
            syscall: 202,
        })
        .collect();
    let mut on_cpu = [0usize, 1, 40, 50];
    let mut since_cpu = [now; 4];
    let mut out = Vec::with_capacity(events);
    let header = |ts_ns, kind, tid: u32, cpu: usize| Header {
        ts_ns,
        kind,
        target: if tid < 48_200 + 24 * 3 { 0 } else { NO_TARGET },
        cpu: cpu as u16,
        tid,
    };
    while out.len() < events {
        now += rng.wait(9_000.0) + 300;
        let cpu = rng.below(4) as usize;
        let next = rng.below(64) as usize;
        if on_cpu.contains(&next) {
            continue;
        }
        let ours = |i: usize| i < 24;
        let emit = |out: &mut Vec<Record>, t: &mut Thread, to, peer, ts| {
            let e = ThreadEvent {
                header: header(ts, 1, t.tid, cpu),
                since_ns: t.since,
                queued_ns: t.since,
                window: 7,
                syscall: if t.state == ThreadState::Running { NO_SYSCALL } else { t.syscall },
                peer_tid: peer,
                prev_cpu: cpu as u16,
                from: t.state as u8,
                to: to as u8,
                flags: THREAD_FULL,
                irq_ns: 0,
                kept_off_ns: 0,
                kept_off_after_ns: 0,
            };
            t.since = ts;
            t.state = to;
            out.push(Record::Event(Event::Thread(e)));
        };
        // The next one wakes, waits, and takes the CPU from the one that has it.
        let waker = threads[on_cpu[rng.below(4) as usize]].tid;
        if ours(next) && threads[next].state == ThreadState::Blocked {
            emit(&mut out, &mut threads[next], ThreadState::RunnableWoken, waker, now);
            now += rng.wait(25_000.0) + 800;
        }
        let old = on_cpu[cpu];
        let (old_tid, next_tid) = (threads[old].tid, threads[next].tid);
        if ours(old) {
            let to = if rng.below(5) == 0 {
                ThreadState::RunnablePreempted
            } else {
                ThreadState::Blocked
            };
            threads[old].syscall = [202, 281, 35, 202][rng.below(4) as usize];
            emit(&mut out, &mut threads[old], to, next_tid, now);
        }
        if ours(next) {
            emit(&mut out, &mut threads[next], ThreadState::Running, old_tid, now);
            let mut comm = [0; 16];
            comm[..8].copy_from_slice(if ours(old) { b"checkout" } else { b"postgres" });
            out.push(Record::Event(Event::Slice(SliceEvent {
                header: header(now, 2, old_tid, cpu),
                start_ns: since_cpu[cpu],
                end_ns: now,
                tgid: if ours(old) { 48_200 } else { old_tid },
                flags: 0,
                comm,
            })));
        }
        on_cpu[cpu] = next;
        since_cpu[cpu] = now;
    }
    out.truncate(events);
    out
}

fn interval(ts_ns: u64) -> Record {
    let hits = vec![1, 2, 3];
    Record::Interval(Box::new(Interval { ts_ns, woken: 99, hits, ..Interval::default() }))
}

fn notice(text: &str) -> Record {
    Record::Notice(Box::new(Notice { ts_ns: 5, target: Some(1), text: text.to_owned() }))
}

/// Every type of event, with the extreme numbers that a prediction could trip over.
fn odd_events() -> Vec<Record> {
    let header = |kind, ts_ns| Header { ts_ns, kind, target: 255, cpu: u16::MAX, tid: u32::MAX };
    let probe = |ts, site| {
        let args = [u64::MAX, 0, ts, 1, u64::MAX / 2];
        Event::Probe(ProbeEvent { header: header(3, ts), site, stw: u32::MAX, args })
    };
    let life =
        Event::Life(LifeEvent { header: header(4, 0), what: Life::Exec as u32, other: u32::MAX });
    [probe(u64::MAX, 1), probe(0, 13), life.clone(), probe(1 << 63, 2), life]
        .into_iter()
        .map(Record::Event)
        .collect()
}

/// A path of this process's own, removed at the end.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let file = format!("g211s-recording-{}-{name}.g211s", std::process::id());
        Self(std::env::temp_dir().join(file))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Records as a file's bytes; a block ends after each inner list.
fn file_of(name: &str, blocks: &[Vec<Record>]) -> Vec<u8> {
    let temp = Temp::new(name);
    let mut writer = Writer::create(&temp.0).unwrap();
    for block in blocks {
        for record in block {
            writer.write(record).unwrap();
        }
        writer.flush().unwrap();
    }
    let size = writer.finish().unwrap();
    let bytes = fs::read(&temp.0).unwrap();
    assert_eq!(bytes.len() as u64, size);
    bytes
}

/// What can be read, how it ended, and the bytes dropped at the end.
fn read(bytes: &[u8]) -> (Vec<String>, Option<RecordingError>, u64) {
    let mut reader = match Reader::new(Cursor::new(bytes), "x.g211s") {
        Ok(reader) => reader,
        Err(e) => return (Vec::new(), Some(e), 0),
    };
    let mut records = Vec::new();
    let mut error = None;
    for record in &mut reader {
        match record {
            Ok(record) => records.push(format!("{record:?}")),
            Err(e) => error = Some(e),
        }
    }
    (records, error, reader.truncated())
}

fn shown(blocks: &[Vec<Record>]) -> Vec<String> {
    blocks.iter().flatten().map(|r| format!("{r:?}")).collect()
}

fn three_blocks() -> Vec<Vec<Record>> {
    let mut first = scheduler_stream(40, 1);
    first.insert(0, notice("begins"));
    first.insert(20, interval(77));
    vec![first, odd_events(), vec![interval(78), notice("ends")]]
}

#[test]
fn everything_comes_back_in_order() {
    let blocks = three_blocks();
    let (records, error, truncated) = read(&file_of("order", &blocks));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(records, shown(&blocks));
    assert_eq!(truncated, 0);
}

#[test]
fn every_prefix_gives_a_prefix_of_the_records() {
    let blocks = three_blocks();
    let bytes = file_of("prefix", &blocks);
    let all = shown(&blocks);
    for cut in 0..bytes.len() {
        let (records, error, truncated) = read(&bytes[..cut]);
        assert_eq!(records, all[..records.len()], "cut at {cut}");
        match error {
            None => assert!(!records.is_empty() && truncated < cut as u64),
            Some(RecordingError::Empty { bytes, .. }) => assert_eq!(bytes, cut as u64),
            Some(e) => panic!("cut at {cut}: {e}"),
        }
    }
    // A cut inside the last block loses that block only.
    let (records, error, truncated) = read(&bytes[..bytes.len() - 1]);
    assert!(error.is_none());
    assert_eq!(records.len(), all.len() - 2);
    assert!(truncated > 24);
}

#[test]
fn zeros_after_a_crash_are_a_cut() {
    let blocks = three_blocks();
    let mut bytes = file_of("zeros", &blocks);
    bytes.resize(bytes.len() + 100_000, 0);
    let (records, error, truncated) = read(&bytes);
    assert!(error.is_none());
    assert_eq!((records.len(), truncated), (shown(&blocks).len(), 100_000));
}

#[test]
fn samples_come_back_and_older_recordings_open() {
    let stw = StwSample {
        total_gc: TimeHist { buckets: vec![(3, 4), (159, u64::MAX)], underflow: 1, overflow: 2 },
        ..StwSample::default()
    };
    let sample = RuntimeSample {
        begin_ns: 5,
        moment: Moment::End,
        stw: Some(stw),
        ..RuntimeSample::default()
    };
    let bytes = file_of("samples", &[vec![Record::Runtime(Box::new(sample.clone()))]]);
    let (records, error, _) = read(&bytes);
    assert!(error.is_none());
    assert_eq!(records, [format!("{:?}", Record::Runtime(Box::new(sample)))]);

    // Format 1 is the same without such records.
    let mut old = file_of("old", &three_blocks());
    let records = read(&old).0;
    old[8] = 1;
    assert_eq!((read(&old).0, read(&old).1.is_none()), (records, true));
    let target: Target = serde_json::from_str(
        r#"{"pid":1,"tgid":1,"comm":"c","exe":"e","cgroup":"/","go_version":"go1.27.3","module":null,
           "link_mode":[],"probes":[],"unavailable":[],"cpus_allowed":"0","threads":[1]}"#,
    )
    .unwrap();
    assert_eq!(target.runtime, None);
}

#[test]
fn bad_files_are_told_apart() {
    let good = file_of("bad", &three_blocks());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        read(&bytes).1.expect("an error")
    };
    let foreign = |bytes: &[u8]| matches!(read(bytes).1, Some(RecordingError::Foreign { .. }));
    assert!(foreign(b"\x7fELF and more"));
    assert!(foreign(b"x"));
    assert!(matches!(read(b"").1, Some(RecordingError::Empty { bytes: 0, .. })));
    assert!(matches!(read(&good[..16]).1, Some(RecordingError::Empty { bytes: 16, .. })));
    assert!(matches!(with(8, 9), RecordingError::NewerFormat { found: 9, .. }));
    assert!(matches!(with(10, 99), RecordingError::OtherAbi { found: 99, .. }));
    assert!(matches!(with(20, 1), RecordingError::Corrupt { block: 1, offset: 16, .. }));
    assert!(matches!(with(60, 1), RecordingError::Corrupt { block: 1, .. }));
    let missing = Reader::open("/nonexistent/x.g211s").map(|_| ()).unwrap_err();
    assert!(matches!(missing, RecordingError::Read { .. }));
    let directory = Reader::open("/").map(|_| ()).unwrap_err();
    assert!(matches!(directory, RecordingError::Read { .. }));
    for e in [with(8, 9), with(10, 99), with(60, 1), missing, directory] {
        assert!(!e.to_string().contains('\n'), "{e}");
    }
}

#[test]
fn lengths_are_checked_before_they_are_used() {
    // A frame that would unpack to a gigabyte, under a header that admits to less, then to all.
    let huge = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    for raw_len in [1 << 20, 64 << 20, u32::MAX] {
        let mut bytes = file_of("lengths", &three_blocks());
        bytes.truncate(FILE_HEADER);
        bytes.extend_from_slice(&block_header(raw_len, &huge, 3));
        bytes.extend_from_slice(&huge);
        assert!(matches!(read(&bytes).1, Some(RecordingError::Corrupt { .. })), "{raw_len}");
    }
}

#[test]
fn a_recording_is_its_owners() {
    use std::os::unix::fs::PermissionsExt as _;
    let temp = Temp::new("mode");
    let mut writer = Writer::create(&temp.0).unwrap();
    writer.write(&notice("x")).unwrap();
    writer.finish().unwrap();
    assert_eq!(fs::metadata(&temp.0).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_run_that_never_begins_changes_nothing() {
    let temp = Temp::new("idle");
    drop(Writer::create(&temp.0).unwrap());
    assert!(!temp.0.exists(), "no file where none was");
    fs::write(&temp.0, "precious").unwrap();
    assert_eq!(Writer::create(&temp.0).unwrap().finish().unwrap(), 0);
    assert_eq!(fs::read(&temp.0).unwrap(), b"precious");
    // A run that begins replaces it, whatever its length.
    fs::write(&temp.0, vec![b'x'; 100_000]).unwrap();
    let mut writer = Writer::create(&temp.0).unwrap();
    writer.write(&notice("new")).unwrap();
    drop(writer);
    let (records, error, truncated) = read(&fs::read(&temp.0).unwrap());
    assert!(error.is_none());
    assert_eq!((records.len(), truncated), (1, 0));
}

#[test]
fn a_full_disk_is_reported_once() {
    let mut writer = Writer::create("/dev/full").unwrap();
    writer.write(&notice("lost")).unwrap();
    let error = writer.flush().unwrap_err();
    assert!(matches!(error, RecordingError::Write { kept: 0, .. }));
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(writer.has_failed());
    writer.write(&notice("dropped")).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.finish().unwrap(), 0);
}

#[test]
fn a_record_that_is_too_large_does_not_end_the_recording() {
    let temp = Temp::new("large");
    let mut writer = Writer::create(&temp.0).unwrap();
    let error = writer.write(&notice(&"x".repeat(MAX_JSON))).unwrap_err();
    assert!(matches!(error, RecordingError::TooLarge { what: "notice", .. }));
    writer.write(&notice(&"y".repeat(MAX_JSON / 2))).unwrap();
    writer.write(&notice(&"z".repeat(MAX_JSON - 100))).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&fs::read(&temp.0).unwrap()).0.len(), 2);
}

#[test]
fn scheduler_events_cost_at_most_eight_bytes() {
    let stream = scheduler_stream(60_000, 3);
    let bytes = file_of("size", std::slice::from_ref(&stream)).len();
    let each = bytes as f64 / stream.len() as f64;
    assert!(each <= 8.0, "{each:.2} bytes per event");
}

/// Run with `cargo test --release -p g211s-userspace --lib measure_size -- --ignored --nocapture`.
#[test]
#[ignore = "prints a measurement"]
fn measure_size_and_speed() {
    let stream = scheduler_stream(2_000_000, 3);
    let start = std::time::Instant::now();
    let bytes = file_of("speed", std::slice::from_ref(&stream));
    let encode = start.elapsed().as_secs_f64();
    let start = std::time::Instant::now();
    let reader = Reader::new(Cursor::new(&bytes), "speed").unwrap();
    let records = reader.map(Result::unwrap).count();
    let decode = start.elapsed().as_secs_f64();
    assert_eq!(records, stream.len());
    let n = stream.len() as f64;
    println!("{:.2} bytes/event", bytes.len() as f64 / n);
    println!("encode {:.2} M events/s, decode {:.2} M/s", n / encode / 1e6, n / decode / 1e6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_events_come_back(seed in any::<u64>(), n in 1usize..400) {
        let blocks = vec![scheduler_stream(n, seed), odd_events()];
        let (records, error, _) = read(&file_of("random", &blocks));
        prop_assert!(error.is_none());
        prop_assert_eq!(records, shown(&blocks));
    }

    #[test]
    fn random_bytes_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        records in 0u32..200,
        depth in 0u8..3,
    ) {
        // As a file, as a payload under a good header, and as columns in a good frame.
        let payload = if depth == 2 { zstd::bulk::compress(&bytes, 1).unwrap() } else { bytes.clone() };
        let mut file = Vec::new();
        if depth > 0 {
            file.extend_from_slice(&MAGIC);
            file.extend_from_slice(&[1, 0, g211s_ebpf::ABI_VERSION as u8, 0, 0, 0, 0, 0]);
            file.extend_from_slice(&block_header(bytes.len() as u32, &payload, records));
        }
        file.extend_from_slice(&payload);
        let (_, error, _) = read(&file);
        prop_assert!(error.is_some());
    }

    #[test]
    fn random_columns_do_no_harm(
        tags in proptest::collection::vec(prop_oneof![1u8..=6, Just(17u8), Just(21u8)], 1..50),
        column in proptest::collection::vec(0u8..=129, 0..60),
    ) {
        // The right number of columns, all with the same arbitrary bytes.
        let mut raw = Vec::new();
        for bytes in std::iter::once(&tags).chain(std::iter::repeat_n(&column, super::columns::COLUMNS - 1)) {
            raw.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            raw.extend_from_slice(bytes);
        }
        let Ok(mut decoder) = super::columns::Decoder::new(raw, tags.len() as u32) else {
            return Ok(());
        };
        let mut seen = 0;
        while let Some(record) = decoder.next() {
            seen += 1;
            prop_assert!(seen <= tags.len() + 1);
            if record.is_err() {
                break;
            }
        }
    }

    #[test]
    fn damaged_columns_do_no_harm(
        seed in any::<u64>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        // Good columns, and then what no checksum guards.
        let events: Vec<Record> = scheduler_stream(60, seed).into_iter().chain(odd_events()).collect();
        let mut encoder = super::columns::Encoder::new();
        for record in &events {
            if let Record::Event(event) = record {
                encoder.push_event(event);
            }
        }
        let (n, mut raw) = (encoder.records(), Vec::new());
        encoder.take(&mut raw);
        for (at, byte) in &damage {
            let at = at.index(raw.len());
            raw[at] = *byte;
        }
        let mut seen = 0;
        let mut decoder = super::columns::Decoder::new(raw, n);
        if let Ok(decoder) = &mut decoder {
            while let Some(Ok(_)) = decoder.next() {
                seen += 1;
                prop_assert!(seen <= n);
            }
        }
        if damage.is_empty() {
            prop_assert_eq!(seen, n);
        }
    }

    #[test]
    fn flipped_bits_are_noticed(flips in proptest::collection::vec((any::<u32>(), 0u8..8), 1..4)) {
        let blocks = three_blocks();
        let mut bytes = file_of("flips", &blocks);
        let good = bytes.clone();
        for (at, bit) in flips {
            let at = at as usize % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        let (records, error, truncated) = read(&bytes);
        let all = shown(&blocks);
        prop_assert_eq!(&records[..], &all[..records.len()]);
        // Bytes 12 to 15 are reserved: whatever they hold is ignored.
        if bytes[..12] != good[..12] || bytes[16..] != good[16..] {
            prop_assert!(error.is_some() || truncated > 0);
        }
    }
}
