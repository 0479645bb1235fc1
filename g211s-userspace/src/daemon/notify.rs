//! Tells systemd that the agent is ready, reloads or stops, and that it is alive (`sd_notify(3)`): datagrams to the
//! socket in `NOTIFY_SOCKET`. Must not know why.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::agent::now_ns;

/// Where systemd listens, if it does.
#[derive(Debug)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear of us.
    pub watchdog: Option<Duration>,
}

impl Notify {
    /// From the environment.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var_os(name);
        let socket = var("NOTIFY_SOCKET").and_then(|path| {
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name),
                None => SocketAddr::from_pathname(&path),
            };
            Some((UnixDatagram::unbound().ok()?, address.ok()?))
        });
        let number = |name: &str| var(name)?.to_str()?.parse::<u64>().ok();
        let own = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog =
            number("WATCHDOG_USEC").filter(|us| own && *us > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            // Nobody who could be told otherwise.
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }

    /// It does what it is for.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// It reads its configuration again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now_ns() / 1000));
    }

    /// It stops.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// It is alive.
    pub fn alive(&self, status: &str) {
        self.send(&format!("WATCHDOG=1\nSTATUS={}", one_line(status)));
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_arrive() {
        let path = std::env::temp_dir().join(format!("g211s-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixDatagram::bind(&path).expect("binds");
        let socket =
            Some((UnixDatagram::unbound().unwrap(), SocketAddr::from_pathname(&path).unwrap()));
        let notify = Notify { socket, watchdog: None };
        notify.ready("two\nlines");
        notify.alive("x");
        let mut bytes = [0; 256];
        let mut next = || {
            let n = listener.recv(&mut bytes).expect("a datagram");
            String::from_utf8_lossy(&bytes[..n]).into_owned()
        };
        assert_eq!(next(), "READY=1\nSTATUS=two lines");
        assert_eq!(next(), "WATCHDOG=1\nSTATUS=x");
        let _ = std::fs::remove_file(&path);
        Notify { socket: None, watchdog: None }.stopping();
    }
}
