//! The profile of a run that followed allocations, and the files that are made of it. Must not know how it was observed.

use std::collections::HashMap;

use anyhow::{Context as _, Result};

use super::model::Model;
use super::schema::Document;
use crate::cli::AllocsArgs;
use crate::export::write_whole;
use crate::profile::{Location, LocationId, Profile, ValueType, flame, pprof};
use crate::report::format::{bytes, duration};

/// The index of the bytes among a profile's values.
const SPACE: usize = 1;

/// All stacks with their estimates: `alloc_objects` and `alloc_space`, as Go's own profile calls them, of the window alone.
pub fn profile(model: &Model, document: &Document) -> Profile {
    let mut p = Profile::new(vec![
        ValueType::new("alloc_objects", "count"),
        ValueType::new("alloc_space", "bytes"),
    ]);
    p.default_sample_type = Some("alloc_space".to_owned());
    p.time_ns = i64::try_from(document.run.wall_ns).unwrap_or(0);
    p.duration_ns = i64::try_from(document.run.window_ns).unwrap_or(0);
    p.comments.push(format!(
        "g211s {}: {} of {} in {}, {}",
        document.run.g211s_version,
        bytes(document.total.bytes),
        document.target.comm,
        duration(document.run.window_ns),
        if document.run.exact { "counted one by one" } else { "estimated from samples" },
    ));
    let mut numbers: HashMap<u64, LocationId> = HashMap::new();
    for (stack, e) in model.allocations.by(Some) {
        let addresses = model.stacks.get(&stack).map(Vec::as_slice).unwrap_or_default();
        let ids: Vec<LocationId> = addresses
            .iter()
            .map(|&address| {
                *numbers.entry(address).or_insert_with(|| {
                    p.location(Location { address, frames: model.frames(address).into() })
                })
            })
            .collect();
        p.push_from_caller(&ids, &[e.objects.round() as i64, e.bytes.round() as i64], Vec::new());
    }
    p
}

/// Writes the files that were asked for.
///
/// # Errors
/// A file that cannot be written.
pub fn write(args: &AllocsArgs, model: &Model, document: &Document) -> Result<()> {
    if args.output.is_none() && args.svg.is_none() && args.folded.is_none() {
        return Ok(());
    }
    let profile = profile(model, document);
    if let Some(path) = &args.output {
        write_whole(path, &pprof::to_bytes(&profile).context("packing the profile")?)?;
    }
    if let Some(path) = &args.folded {
        write_whole(path, flame::folded(&profile, SPACE).as_bytes())?;
    }
    if let Some(path) = &args.svg {
        let title = format!(
            "bytes allocated by {} in {}",
            document.target.comm,
            duration(document.run.window_ns)
        );
        write_whole(path, flame::svg(&profile, SPACE, &title).as_bytes())?;
    }
    Ok(())
}
