//! `g211s goroutines`: from arguments to censuses to a document. The only place in this room that
//! knows processes.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use super::schema::{self, Document};
use super::{Census, CensusError};
use crate::agent::stand_back;
use crate::cli::GoroutinesArgs;
use crate::runtime::bias::load_bias;
use crate::runtime::memory::{MemoryError, ProcessMemory};
use crate::runtime::{Feature, Runtime};
use crate::target::procfs::Procfs;
use crate::target::resolve;

/// Censuses where an interval is given, but no number.
const DEFAULT_COUNT: u32 = 3;
/// Time between censuses where a number is given, but no interval.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// Takes the censuses. Ends early on Ctrl-C and on the target's end, with what there is by then.
pub async fn run(args: &GoroutinesArgs) -> Result<Document> {
    // A census sleeps and wakes a thousand times: the target's threads are not to be pushed aside.
    stand_back();
    let procfs = Procfs::default();
    let target = resolve(&procfs, args.pid)?;
    let unreadable = |why: &dyn std::fmt::Display| {
        anyhow!("the goroutines of process {} cannot be read: {why}", args.pid)
    };
    let binary = &target.binary;
    binary.known_runtime().map_err(|why| unreadable(&why))?;
    let bias = load_bias(&procfs, args.pid, binary).map_err(|why| unreadable(&why))?;
    let memory = ProcessMemory::open(&procfs, args.pid).map_err(|why| unreadable(&why))?;
    let mut runtime = Runtime::unchecked(&memory, binary, bias);
    runtime.check(binary, &[Feature::Goroutines]);
    runtime.usable(Feature::Goroutines).map_err(|why| {
        let what = "the runtime's list of them is not what it should be";
        unreadable(&format!("{what}: {why}"))
    })?;
    let mut symbols = target.binary.symbols();
    let count = args.count.unwrap_or(match args.interval {
        Some(_) => DEFAULT_COUNT,
        None => 1,
    });
    let interval = args.interval.unwrap_or(DEFAULT_INTERVAL);
    let mut censuses: Vec<Census> = Vec::new();
    let mut ended = None;
    let mut next = tokio::time::Instant::now();
    for i in 0..count {
        if i > 0 {
            next += interval;
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        match Census::take(&runtime, &mut symbols, args.stacks) {
            Ok(census) => {
                if let Some(last) = censuses.last_mut() {
                    last.forget_details();
                }
                censuses.push(census);
            }
            Err(CensusError::Memory(MemoryError::Gone)) if !censuses.is_empty() => {
                ended = Some(format!("after {i} of {count} censuses the process ended"));
                break;
            }
            Err(e) => {
                return Err(e).with_context(|| format!("no census of process {}", args.pid));
            }
        }
        if !target.is_alive(&procfs) {
            if censuses.last().is_some_and(|c| c.groups.is_empty()) {
                censuses.pop();
            }
            if censuses.is_empty() {
                bail!("process {} ended while it was read", args.pid);
            }
            ended = Some(format!("after {} of {count} censuses the process ended", i + 1));
            break;
        }
    }
    let offsets = runtime.offsets();
    let mut document =
        schema::build(&target, offsets, &mut symbols, &censuses, memory.counts(), args.system);
    document.unavailable.extend(ended);
    Ok(document)
}
