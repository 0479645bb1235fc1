//! Loss is counted exactly: with the smallest ring buffer and a reader that pauses, events lost
//! are those produced minus those received, class by class.

use std::time::Duration;

use anyhow::{Result, ensure};
use g211s_tests::agent::Attach;
use g211s_tests::service::Launch;
use g211s_tests::{go, needs_kernel};

#[test]
fn lost_is_produced_minus_received() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("service", go::NEW).args(&["-rate", "200"]).start()?;
    let load = service.load("/work?kb=16", 4, 1000)?;
    let report = Attach::new(service.pid(), Duration::from_secs(6))
        .args(&["--full"])
        .env("G211S_TEST_RING_BYTES", "4096")
        .env("G211S_TEST_PAUSE_DRAIN", "2s")
        .report()?;
    drop(load);
    let [produced, received, lost] = ["produced", "received", "lost"].map(|w| report.events(w));
    let (produced, received, lost) = (produced?, received?, lost?);
    println!("produced {produced:?}\nreceived {received:?}\nlost     {lost:?}");
    for (class, &produced) in &produced {
        let received = received.get(class).copied().unwrap_or(0);
        let lost = lost.get(class).copied().unwrap_or(0);
        ensure!(lost + received == produced, "{class}: {lost} + {received} is not {produced}");
    }
    ensure!(lost.values().sum::<u64>() > 0, "nothing was lost: the knobs do nothing");
    ensure!(received.values().sum::<u64>() > 0, "nothing was received");
    Ok(())
}

#[test]
fn nothing_is_lost_in_the_ordinary_case() -> Result<()> {
    needs_kernel!();
    let service = Launch::new("service", go::NEW).args(&["-rate", "100"]).start()?;
    let load = service.load("/work?kb=16", 4, 500)?;
    let report = Attach::new(service.pid(), Duration::from_secs(4)).report()?;
    drop(load);
    let lost = report.events("lost")?;
    ensure!(lost.values().all(|&n| n == 0), "lost {lost:?}");
    ensure!(report.events("produced")? == report.events("received")?, "produced is not received");
    Ok(())
}
