//! The `g211s` command: parses, dispatches, prints, and turns errors into one line and an exit code.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use clap_complete::Shell;
use g211s::{
    agent::{self, Sinks},
    allocs::{self, observer::Nobody},
    census,
    cli::{
        AllocsArgs, AttachArgs, Cli, Command, DoctorArgs, GoroutinesArgs, HeapArgs, HeapCommand,
        LeaksArgs, PsArgs, RecordArgs, ReportArgs,
    },
    daemon, doctor,
    export::{Exports, write_whole},
    heap, html, leaks,
    profile::table::Look,
    ps,
    record::Record,
    recording::{Reader, Writer},
    report::{Pipeline, Report, Style, text},
    target::{TargetError, procfs::Procfs},
    top,
};

/// Something failed. (2, from clap and from [`TargetError::exit_code`]: what was asked for makes no
/// sense.)
const FAILURE: u8 = 1;
/// What was asked for cannot be done here.
const WRONG_USE: u8 = 2;
/// A leak was found that counts.
const FOUND: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Allocs(args) = &cli.command
        && let Err(why) = args.check()
    {
        Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
    }
    if let Command::Report(args) = &cli.command
        && let Err(why) = args.export.check()
    {
        Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
    }
    if let Command::Top(_) = &cli.command
        && let Err(why) = top::terminal::check()
    {
        let _ = writeln!(io::stderr(), "g211s: {why}");
        return ExitCode::from(WRONG_USE);
    }
    let done = dispatch(cli.command);
    // Also of a run that failed.
    g211s::bpf::wait_detached();
    match done {
        Ok(code) => code,
        Err(e) => {
            // A closed pipe (`g211s report … | head`) is the reader's choice, not a failure.
            if e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            let line = format!("g211s: {}", one_line(&e)).replace('\n', " ");
            let _ = writeln!(io::stderr(), "{}", g211s::report::format::clean(&line));
            ExitCode::from(code_of(&e))
        }
    }
}

/// What went wrong and its causes, each said once (many messages quote their cause).
fn one_line(e: &anyhow::Error) -> String {
    e.chain().fold(String::new(), |line, cause| {
        let cause = cause.to_string();
        match line.as_str() {
            "" => cause,
            said if said.contains(&cause) => line,
            said => format!("{said}: {cause}"),
        }
    })
}

fn code_of(e: &anyhow::Error) -> u8 {
    e.downcast_ref::<TargetError>().map_or(FAILURE, TargetError::exit_code)
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Attach(args) => attach(&args),
        Command::Top(args) => top::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Record(args) => record(&args),
        Command::Report(args) => report(&args),
        Command::Doctor(args) => examine(&args),
        Command::Goroutines(args) => goroutines(&args),
        Command::Allocs(args) => allocations(&args),
        Command::Heap(args) => heap_of(&args),
        Command::Leaks(args) => leaks_of(&args),
        Command::Ps(args) => list(&args),
        Command::Dist(args) => dist(&args.folder),
        Command::Agent(args) => {
            runtime()?.block_on(daemon::run(&args))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    // One thread: the agent must be small beside what it watches, and `unshare` wants it so.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the event loop")
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// <https://no-color.org>: any value that is not empty.
fn is_plain() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}

fn print_report(report: &Report, json: bool) -> Result<()> {
    if json {
        print(&(report.to_json()? + "\n"))
    } else {
        let ansi = io::stdout().is_terminal() && !is_plain();
        print(&text(report, if ansi { Style::Ansi } else { Style::Plain }))
    }
}

fn attach(args: &AttachArgs) -> Result<ExitCode> {
    let writer = args.record.as_ref().map(Writer::create).transpose()?;
    let sinks =
        Sinks { pipeline: Some(Pipeline::new("live").telling_delays()), writer, live: true };
    let sinks = runtime()?.block_on(agent::run(&args.watch, sinks))?;
    let pipeline = sinks.pipeline.expect("the pipeline that was put in comes back");
    print_report(&pipeline.finish(), args.json)?;
    Ok(finish_recording(sinks.writer, args.record.is_some())?.0)
}

fn record(args: &RecordArgs) -> Result<ExitCode> {
    let writer = Some(Writer::create(&args.output)?);
    let sinks = Sinks { pipeline: None, writer, live: true };
    let sinks = runtime()?.block_on(agent::run(&args.watch, sinks))?;
    let (code, bytes) = finish_recording(sinks.writer, true)?;
    if let Some(bytes) = bytes {
        let file = args.output.display();
        let _ = writeln!(io::stderr(), "{file}: {bytes} bytes; read it with `g211s report {file}`");
    }
    Ok(code)
}

/// A recording that stopped early was reported when it did; the exit code must say so too.
fn finish_recording(writer: Option<Writer>, wanted: bool) -> Result<(ExitCode, Option<u64>)> {
    match writer {
        Some(writer) => Ok((ExitCode::SUCCESS, Some(writer.finish()?))),
        None if wanted => Ok((ExitCode::from(FAILURE), None)),
        None => Ok((ExitCode::SUCCESS, None)),
    }
}

fn report(args: &ReportArgs) -> Result<ExitCode> {
    // First, so that a file which is no recording leaves no others behind.
    let reader = Reader::open(&args.file)?;
    if let Some(out) = &args.html {
        page(&args.file, out)?;
    }
    let mut exports = Exports::create(&args.export)?;
    let mut progress = Progress::new(&args.file);
    let code = replay(reader, &args.file, |record, read| {
        exports.push(record)?;
        progress.tell(read, exports.written());
        Ok(())
    });
    progress.end();
    let code = code?;
    let (takes_stdout, json) = (exports.takes_stdout(), args.json);
    let (report, left_out) = exports.finish()?;
    for (option, n) in left_out {
        let what = g211s::report::format::plural(n, "thing was", "things were");
        let _ =
            writeln!(io::stderr(), "g211s: {option}: {what} left out (docs/exports.md says when)");
    }
    if !takes_stdout {
        print_report(&report, json)?;
    }
    Ok(code)
}

/// Writes a recording as a page. What is wrong with the recording is left to be told with the report.
fn page(file: &Path, out: &Path) -> Result<()> {
    let whole = || Ok::<_, anyhow::Error>(Reader::open(file)?.map_while(Result::ok));
    let mut first = html::First::new("file");
    for record in whole()? {
        first.push(record);
    }
    let mut second = first.finish();
    for record in whole()? {
        second.push(record);
    }
    let page = second.finish()?;
    write_whole(out, page.as_bytes())?;
    let _ = writeln!(io::stderr(), "{}: {} bytes; open it in a browser", out.display(), page.len());
    Ok(())
}

/// How far a long export is, on a terminal.
struct Progress {
    bytes: u64,
    next: Instant,
    calls: u32,
    shown: bool,
}

impl Progress {
    fn new(file: &Path) -> Self {
        let bytes = std::fs::metadata(file).map_or(0, |m| m.len());
        Self { bytes, next: Instant::now() + Duration::from_secs(1), calls: 0, shown: false }
    }

    /// `read` bytes of the recording were read; `written`: of exports, if there are any.
    fn tell(&mut self, read: u64, written: Option<u64>) {
        self.calls = self.calls.wrapping_add(1);
        let Some(written) = written.filter(|_| self.calls.is_multiple_of(4096)) else { return };
        if Instant::now() < self.next || !io::stderr().is_terminal() {
            return;
        }
        self.next = Instant::now() + Duration::from_millis(250);
        self.shown = true;
        let written = g211s::report::format::bytes(written);
        let percent = (read * 100).checked_div(self.bytes).unwrap_or(0);
        // The cursor goes back, so that whatever is said next is written over it.
        let _ = write!(io::stderr(), "\x1b[Kg211s: {percent} % read, {written} written\r");
    }

    fn end(&self) {
        if self.shown {
            let _ = write!(io::stderr(), "\x1b[K");
        }
    }
}

/// Hands on what is whole of a recording; says what is not, and fails then.
fn read_all(file: &Path, mut push: impl FnMut(Record)) -> Result<ExitCode> {
    replay(Reader::open(file)?, file, |record, _| {
        push(record);
        Ok(())
    })
}

/// Hands on what is whole of a recording, with how many bytes of it were read; says what is not, and fails then.
fn replay(
    mut reader: Reader,
    file: &Path,
    mut push: impl FnMut(Record, u64) -> Result<()>,
) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    while let Some(record) = reader.next() {
        match record {
            Ok(record) => push(record, reader.position())?,
            Err(e) => {
                // What is whole is reported; what is not is said.
                let _ = writeln!(io::stderr(), "g211s: {e}; the report covers what comes before");
                code = ExitCode::from(FAILURE);
                break;
            }
        }
    }
    if reader.truncated() > 0 {
        let _ = writeln!(
            io::stderr(),
            "g211s: {} was cut off ({} bytes after its last whole block are dropped); the report \
             covers what comes before",
            file.display(),
            reader.truncated()
        );
    }
    Ok(code)
}

fn examine(args: &DoctorArgs) -> Result<ExitCode> {
    let runtime = runtime()?;
    let _context = runtime.enter();
    let diagnosis = doctor::examine(args.pid)?;
    if args.json {
        print(&(serde_json::to_string_pretty(&diagnosis)? + "\n"))?;
    } else {
        print(&doctor::text(&diagnosis))?;
    }
    Ok(if diagnosis.ok { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

fn goroutines(args: &GoroutinesArgs) -> Result<ExitCode> {
    let document = runtime()?.block_on(census::command::run(args))?;
    if args.json {
        print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
    } else {
        print(&census::text::text(&document, args.top))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn allocations(args: &AllocsArgs) -> Result<ExitCode> {
    let mut model = allocs::model::Model::default();
    let mut code = ExitCode::SUCCESS;
    if let Some(pid) = args.pid {
        let mut writer = args.record.as_ref().map(Writer::create).transpose()?;
        let mut sink = |record: Record| {
            if let Some(w) = &mut writer
                && let Err(e) = w.write(&record)
            {
                let _ = writeln!(io::stderr(), "g211s: {e}; the run goes on without the recording");
                writer = None;
            }
            model.push(record);
            Ok(())
        };
        runtime()?.block_on(allocs::command::run(args, pid, &mut Nobody, &mut sink))?;
        code = finish_recording(writer, args.record.is_some())?.0;
    } else if let Some(file) = &args.from {
        code = read_all(file, |record| model.push(record))?;
        if !model.is_of_allocations() {
            anyhow::bail!(
                "{} holds no allocations: it was not made by `g211s allocs --record`; `g211s report` may read it",
                file.display()
            );
        }
    }
    let document = allocs::schema::document(&model);
    allocs::output::write(args, &model, &document)?;
    if args.json {
        print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
    } else {
        print(&allocs::text::text(&document, args.top))?;
    }
    Ok(code)
}

/// How tables are to look on our output.
fn look() -> Look {
    let is_terminal = io::stdout().is_terminal();
    let width =
        terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    Look { width: width.filter(|_| is_terminal), colour: is_terminal && !is_plain() }
}

fn heap_of(args: &HeapArgs) -> Result<ExitCode> {
    match (&args.command, &args.take) {
        (Some(HeapCommand::Diff(args)), _) => {
            let difference = heap::command::compare(args)?;
            if args.json {
                print(&(serde_json::to_string_pretty(&difference)? + "\n"))?;
            } else {
                print(&difference.text(args.top, look()))?;
            }
        }
        (None, Some(args)) => {
            let document = if args.follow {
                runtime()?.block_on(heap::command::follow(args))?
            } else {
                heap::command::take(args)?
            };
            if args.json {
                print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
            } else {
                print(&heap::text::text(&document, args.top, look()))?;
            }
        }
        // clap has refused that.
        (None, None) => anyhow::bail!("a process is needed: g211s heap --pid PID"),
    }
    Ok(ExitCode::SUCCESS)
}

fn leaks_of(args: &LeaksArgs) -> Result<ExitCode> {
    let code;
    let seen = match (args.pid, &args.from) {
        (Some(pid), _) => {
            let writer = args.record.as_ref().map(Writer::create).transpose()?;
            let (seen, writer) = runtime()?.block_on(leaks::command::watch(args, pid, writer))?;
            code = finish_recording(writer, args.record.is_some())?.0;
            seen
        }
        (None, Some(file)) => {
            let mut seen = leaks::seen::Seen::default();
            code = read_all(file, |record| seen.push(record))?;
            if !seen.is_of_leaks() {
                anyhow::bail!(
                    "{} holds no search for leaks: it was not made by `g211s leaks --record`",
                    file.display()
                );
            }
            seen
        }
        // clap has refused that.
        (None, None) => anyhow::bail!("a process is needed: g211s leaks --pid PID"),
    };
    let findings = leaks::judge::judge(&seen);
    let document = leaks::schema::document(&seen, &findings, &leaks::command::limits(args));
    if args.json {
        print(&(serde_json::to_string_pretty(&document)? + "\n"))?;
    } else {
        print(&leaks::text::text(&document, &findings, args.top))?;
    }
    let found = document.counted.findings > 0 && code == ExitCode::SUCCESS;
    Ok(if found { ExitCode::from(FOUND) } else { code })
}

fn list(args: &PsArgs) -> Result<ExitCode> {
    let list = ps::list(&Procfs::default())?;
    if args.json {
        print(&(serde_json::to_string_pretty(&list)? + "\n"))?;
    } else {
        print(&ps::text(&list))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes what packages take from the command line's own description.
fn dist(folder: &Path) -> Result<ExitCode> {
    std::fs::create_dir_all(folder)?;
    let mut command = Cli::command();
    command.build();
    let page = |command: &clap::Command, name: String| -> Result<()> {
        let mut text = Vec::new();
        let man =
            clap_mangen::Man::new(command.clone().display_name(name.clone())).title(name.clone());
        man.render(&mut text)?;
        Ok(std::fs::write(folder.join(format!("{name}.1")), text)?)
    };
    page(&command, "g211s".to_owned())?;
    let shown = command.get_subcommands().filter(|c| c.get_name() != "help" && !c.is_hide_set());
    for sub in shown {
        page(sub, format!("g211s-{}", sub.get_name()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "g211s", folder)?;
    }
    Ok(ExitCode::SUCCESS)
}
