//! Scenarios in which nothing is wrong with the target: whoever is accused is accused wrongly,
//! unless other evidence says the same.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

use super::observe;
use crate::lab::accuse::{Counters, weigh};
use crate::lab::judge::Truth;
use crate::lab::random::Random;
use crate::lab::target;
use crate::lab::trial::{Observed, Setting};
use crate::service::Service;
use crate::truth::sched::{Perf, note_threads};

/// A target that allocates moderately, collects its garbage and stops its world now and then.
pub(super) fn healthy(setting: Setting) -> Result<Observed> {
    let target =
        target::launch("steady", setting.seed).args(&["-stops", "5ms", "-alloc", "100"]).start()?;
    weighed(target, setting, "nothing injected; against perf and /proc".to_owned())
}

/// The same, while it waits for a peer that takes its time.
pub(super) fn slow_peer(setting: Setting) -> Result<Observed> {
    let peer = Peer::start(setting.seed)?;
    let target = target::launch("client", setting.seed)
        .args(&["-stops", "5ms", "-alloc", "20", "-peer", &peer.address, "-every", "2ms"])
        .start()?;
    weighed(target, setting, "answers after 50 to 250 ms; against perf and /proc".to_owned())
}

fn weighed(target: Service, setting: Setting, how: String) -> Result<Observed> {
    let pid = target.pid();
    let mut tids = BTreeSet::new();
    note_threads(pid, &mut tids)?;
    let perf = Perf::start()?;
    let before = Counters::read()?;
    let report = observe(pid, setting.window, || Ok(()))?;
    let evidence = before.until(Counters::read()?, perf.stop()?.trace()?);
    target::end(target)?;
    let accusations = Some(weigh(&report, &evidence)?);
    Ok(Observed { report, truth: Truth::default(), pauses: Vec::new(), accusations, how })
}

/// A peer on loopback that answers each byte with a byte, late.
struct Peer {
    address: String,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Peer {
    fn start(seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let acceptor = std::thread::spawn(move || {
            let mut answering = Vec::new();
            let mut random = Random::new(seed);
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let random = Random::new(random.between(0, u64::MAX));
                        answering.push(std::thread::spawn(move || answer(stream, random)));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Err(_) => break,
                }
            }
            // The target is gone, so each of them sees the end of its connection.
            for thread in answering {
                let _ = thread.join();
            }
        });
        Ok(Self { address, stop, acceptor: Some(acceptor) })
    }
}

fn answer(mut stream: TcpStream, mut random: Random) {
    let mut byte = [0];
    let began = stream.set_nonblocking(false);
    while began.is_ok() && stream.read_exact(&mut byte).is_ok() {
        std::thread::sleep(random.lasting(Duration::from_millis(50), Duration::from_millis(250)));
        if stream.write_all(&byte).is_err() {
            break;
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
