//! What the command line takes, and refuses.

use clap::CommandFactory as _;

use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_heap_is_taken_or_compared() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    let Command::Heap(take) = parse("g211s heap --pid 7 --top 3").unwrap().command else {
        panic!()
    };
    assert!(take.command.is_none() && take.take.is_some_and(|t| t.pid == 7 && t.top == 3));
    let Command::Heap(diff) = parse("g211s heap diff a b --json").unwrap().command else {
        panic!()
    };
    assert!(matches!(diff.command, Some(HeapCommand::Diff(d)) if d.json) && diff.take.is_none());
    for bad in
        ["g211s heap", "g211s heap --json", "g211s heap diff a", "g211s heap --pid 7 diff a b"]
    {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn top_is_live_or_of_a_file() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    let Command::Top(args) = parse("g211s top").unwrap().command else { panic!() };
    assert!(args.pids.is_empty() && args.from.is_none() && !args.ascii);
    let Command::Top(args) = parse("g211s top --pid 1 --pid 2").unwrap().command else { panic!() };
    assert_eq!(args.pids, [1, 2]);
    assert!(parse("g211s top --from f --ascii").is_ok());
    for bad in ["g211s top --pid 1 --from f", "g211s top --from f --threshold 1ms"] {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn times_have_units() {
    assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
    assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1500)));
    assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
    for bad in ["30", "", "s", "-1s", "1e3s", "0s", "5000000h", "1..2s", "1 s"] {
        assert!(duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn rings_are_powers_of_two() {
    assert_eq!(ring_bytes("8M"), Ok(8 << 20));
    assert_eq!(ring_bytes("4096"), Ok(4096));
    for bad in ["", "K", "5000", "2K", "2048M", "99999999999999999999M", "-4K"] {
        assert!(ring_bytes(bad).is_err(), "{bad}");
    }
}

#[test]
fn shares_have_a_range() {
    assert_eq!(share("1%"), Ok(0.01));
    assert_eq!(share("0.05"), Ok(0.05));
    for bad in ["", "%", "0", "101%", "-1%", "NaN", "inf%", "1%%"] {
        assert!(share(bad).is_err(), "{bad}");
    }
}

#[test]
fn growth_has_a_time() {
    assert_eq!(growth("64KiB/min"), Ok(65536.0));
    assert_eq!(growth("6MB/h"), Ok(100_000.0));
    assert_eq!((growth("10/s"), growth("1.5M/m")), (Ok(600.0), Ok(1_572_864.0)));
    for bad in ["", "1MiB", "1MiB/", "/min", "-1B/min", "1TB/min", "1MiB/year", "..B/s"] {
        assert!(growth(bad).is_err(), "{bad}");
    }
}

#[test]
fn leaks_are_looked_for_live_or_in_a_file() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' '));
    let Command::Leaks(args) = parse("g211s leaks --pid 7 --fail-on heap").unwrap().command else {
        panic!()
    };
    assert_eq!(
        (args.pid, args.fail_on, args.duration),
        (Some(7), FailOn::Heap, Duration::from_mins(5))
    );
    for bad in [
        "g211s leaks",
        "g211s leaks --pid 7 --from f",
        "g211s leaks --pid 7 --fail-on all",
        "g211s leaks --from f --record g",
        "g211s leaks --pid 7 --min-growth 5",
        "g211s leaks --pid 7 --min-goroutines -1",
    ] {
        assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
    }
}

#[test]
fn probes_are_named() {
    assert_eq!(extra_probe("mallocgc"), Ok(ExtraProbe::MallocGc));
    assert_eq!(extra_probe("custom:main.f"), Ok(ExtraProbe::Custom("main.f".into())));
    assert!(extra_probe("custom:").is_err() && extra_probe("casgstatus").is_err());
}
