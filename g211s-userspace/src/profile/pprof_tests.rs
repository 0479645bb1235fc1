use proptest::prelude::*;

use super::*;
use crate::profile::tests::sample_profile;

fn repack(message: &proto::Profile) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&message.encode_to_vec()).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn what_is_written_is_read() {
    let mut wrote = sample_profile();
    wrote.duration_ns = 7;
    wrote.default_sample_type = Some("inuse_space".to_owned());
    let nameless = wrote.location(Location { address: 0x41_0000, frames: [].into() });
    let label = Label { key: "state".into(), value: LabelValue::Text("dead".into()) };
    wrote.push(&[nameless], &[1, -2], vec![label]);
    let read = from_bytes(&to_bytes(&wrote).unwrap()).unwrap();
    assert_eq!(read.sample_types, wrote.sample_types);
    assert_eq!(read.locations(), wrote.locations());
    assert_eq!(read.samples(), wrote.samples());
    assert_eq!(read.mappings, wrote.mappings);
    assert_eq!((read.period, &read.period_type), (wrote.period, &wrote.period_type));
    assert_eq!((read.time_ns, read.duration_ns), (wrote.time_ns, 7));
    assert_eq!((&read.comments, read.default_index()), (&wrote.comments, 1));
}

#[test]
fn a_location_with_inlined_calls_has_several_lines() {
    let message = message(&sample_profile());
    let lines: Vec<usize> = message.location.iter().map(|l| l.line.len()).collect();
    assert_eq!(lines, [1, 2, 3, 1, 1, 1]);
    let string = |index: i64| message.string_table[index as usize].as_str();
    let names: Vec<_> =
        message.function.iter().map(|f| (string(f.name), string(f.system_name))).collect();
    assert!(names.contains(&("main.fill[...]", "main.fill[go.shape.int]")), "{names:?}");
    assert!(message.location.iter().all(|l| l.mapping_id == 1));
    assert!(message.mapping.iter().all(|m| m.has_functions && m.has_inline_frames));
}

#[test]
fn an_empty_profile_is_one() {
    let read = from_bytes(&to_bytes(&Profile::new(vec![ValueType::new("x", "count")])).unwrap());
    assert!(read.unwrap().samples().is_empty());
}

/// One thing wrong with a message, and what is said of it.
#[test]
fn damage_is_told() {
    type Harm = fn(&mut proto::Profile);
    let cases: [(&str, Harm); 9] = [
        ("begin with an empty one", |m| m.string_table[0] = "x".to_owned()),
        ("begin with an empty one", |m| m.string_table.clear()),
        ("a string that is not", |m| m.function[0].name = i64::MAX),
        ("a string that is not", |m| m.comment.push(-1)),
        ("a function that is not", |m| m.location[0].line[0].function_id = 99),
        ("a location that is not", |m| m.sample[0].location_id[0] = 99),
        ("number of its own", |m| m.location[1].id = 1),
        ("another number of values", |m| m.sample[0].value.truncate(1)),
        ("no types of values", |m| m.sample_type.clear()),
    ];
    for (expected, harm) in cases {
        let mut message = message(&sample_profile());
        harm(&mut message);
        let error = from_bytes(&repack(&message)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    for junk in [&b""[..], b"\x1f\x8b", b"\x1f\x8b\x08\0\0\0\0\0\0\0", b"heap profile: 1: 2"] {
        assert!(from_bytes(junk).is_err(), "{junk:?}");
    }
}

#[test]
fn what_unpacks_to_too_much_is_refused() {
    let zeros = vec![0_u8; 1 << 20];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..=MAX_BYTES >> 20 {
        gzip.write_all(&zeros).unwrap();
    }
    let error = from_bytes(&gzip.finish().unwrap()).unwrap_err();
    assert!(matches!(error, PprofError::TooLarge(MAX_BYTES, _)), "{error}");
    // Empty samples: two bytes each in the file, a hundred in memory.
    let many = [0x12, 0x00].repeat(MAX_ENTRIES as usize + 1);
    let error = from_bytes(&many).unwrap_err();
    assert!(matches!(error, PprofError::TooLarge(MAX_ENTRIES, _)), "{error}");
}

#[test]
fn a_long_name_that_is_named_often_is_refused() {
    let mut message = message(&sample_profile());
    message.string_table.push("x".repeat(1 << 20));
    let long = message.string_table.len() as i64 - 1;
    message.function.push(proto::Function {
        id: 99,
        name: long,
        system_name: long,
        filename: long,
    });
    message.location[0].line = vec![proto::Line { function_id: 99, line: 1 }; 1000];
    let error = from_bytes(&repack(&message)).unwrap_err();
    assert!(error.to_string().contains("bytes of names"), "{error}");
}

proptest! {
    #[test]
    fn hostile_bytes_are_an_error_or_a_profile(
        at in any::<prop::sample::Index>(), with in any::<[u8; 3]>(), cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = message(&sample_profile()).encode_to_vec();
        let at = at.index(bytes.len() - with.len());
        bytes[at..at + with.len()].copy_from_slice(&with);
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        if let Ok(read) = from_bytes(&bytes) {
            // What was read can be summed, drawn and written again.
            let _ = crate::profile::table::rows(&read, crate::profile::table::By::Line, 9);
            let _ = crate::profile::flame::svg(&read, 0, "");
            let again = from_bytes(&to_bytes(&read).unwrap()).unwrap();
            prop_assert_eq!(again.totals(), read.totals());
        }
    }
}
