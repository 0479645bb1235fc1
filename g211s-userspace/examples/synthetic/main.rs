//! Writes a recording of a made-up busy machine: `synthetic EVENTS FILE`. `cargo xtask bench` measures
//! with it how long a report takes.

mod machine;

use std::process::ExitCode;

use g211s::recording::Writer;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(events), Some(file)) = (args.next().and_then(|n| n.parse().ok()), args.next()) else {
        eprintln!("usage: synthetic EVENTS FILE");
        return ExitCode::from(2);
    };
    let written = Writer::create(file).and_then(|mut writer| {
        machine::Machine::new(events).try_for_each(|record| writer.write(&record))?;
        writer.finish()
    });
    match written {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("synthetic: {e}");
            ExitCode::FAILURE
        }
    }
}
