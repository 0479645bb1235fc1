//! A program on a terminal that is ours: tmux, with keys in and the screen out. Must not know what the program is.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::proc::{Proc, output_of};

/// How long a screen may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(100);
/// What the shell says when the program has ended, before its exit code.
const ENDED: &str = "ended with ";
/// Sockets of this process so far.
static SOCKETS: AtomicU32 = AtomicU32::new(0);

/// A terminal, and what runs on it.
pub struct Tmux {
    socket: String,
    // Everything on it ends with it.
    _server: Proc,
}

impl Tmux {
    /// Runs `command` (as a shell writes it) on a terminal of this size, with these variables.
    pub fn start(command: &str, (width, height): (u16, u16), env: &[(&str, &str)]) -> Result<Self> {
        let n = SOCKETS.fetch_add(1, Ordering::Relaxed);
        let socket = format!("g211s-test-{}-{n}", std::process::id());
        let mut server = Command::new("tmux");
        // In the foreground, so that it ends when we do.
        server.args(["-L", &socket, "-f", "/dev/null", "-D"]);
        let this = Self { _server: Proc::spawn(server.env_remove("TMUX"))?, socket };
        let began = Instant::now();
        let (width, height) = (width.to_string(), height.to_string());
        let mut session = vec!["new-session", "-d", "-s", "t", "-x", &width, "-y", &height];
        let variables: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        for variable in &variables {
            session.extend(["-e", variable]);
        }
        // The terminal is looked at after the program's end as well, so a shell keeps it.
        let kept = format!("{command}; echo \"{ENDED}$?\"; exec cat");
        session.push(&kept);
        while let Err(e) = this.tmux(&session) {
            if began.elapsed() > PATIENCE {
                return Err(e.context("no tmux session"));
            }
            std::thread::sleep(LOOK);
        }
        this.tmux(&["set-option", "-g", "escape-time", "20"])?;
        Ok(this)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut tmux = Command::new("tmux");
        // Ours alone: a client that came first would begin a server that nobody ends.
        tmux.args(["-N", "-L", &self.socket]).args(args);
        // In any other locale tmux writes `_` for what is not ASCII.
        tmux.env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        output_of(&mut tmux)
    }

    /// Presses keys, as tmux names them (`q`, `Tab`, `PageUp`).
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        let mut args = vec!["send-keys", "-t", "t"];
        args.extend(keys);
        self.tmux(&args).map(drop)
    }

    /// What is on the screen.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-t", "t"])
    }

    /// The same with the escape sequences of its attributes.
    pub fn attributes(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-e", "-t", "t"])
    }

    /// Gives the terminal another size.
    pub fn resize(&self, width: u16, height: u16) -> Result<()> {
        let (x, y) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-t", "t", "-x", &x, "-y", &y]).map(drop)
    }

    /// PID of the program.
    pub fn pid(&self) -> Result<i32> {
        let shell = self.ask("#{pane_pid}")?;
        let children = format!("/proc/{shell}/task/{shell}/children");
        let children = std::fs::read_to_string(children).context("the shell's children")?;
        children.split_whitespace().next().context("the program")?.parse().context("a PID")
    }

    /// Whether the terminal's other screen is in use, and whether its cursor can be seen.
    pub fn modes(&self) -> Result<(bool, bool)> {
        let modes = self.ask("#{alternate_on} #{cursor_flag}")?;
        Ok((modes.starts_with('1'), modes.ends_with('1')))
    }

    fn ask(&self, what: &str) -> Result<String> {
        Ok(self.tmux(&["display-message", "-p", "-t", "t", what])?.trim().to_owned())
    }

    /// Waits until the screen is as wanted; the screen.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let began = Instant::now();
        loop {
            let screen = self.screen()?;
            if wanted(&screen) {
                return Ok(screen);
            }
            if began.elapsed() > PATIENCE {
                bail!("{what}: not on the screen within {} s:\n{screen}", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until all these texts are on the screen; the screen.
    pub fn wait_for(&self, texts: &[&str]) -> Result<String> {
        self.wait(&format!("{texts:?}"), |screen| texts.iter().all(|t| screen.contains(t)))
    }

    /// Waits until the program has ended; its exit code and what is on the screen then.
    pub fn wait_end(&self) -> Result<(i32, String)> {
        let screen = self.wait("its end", |screen| screen.contains(ENDED))?;
        let code = screen.split(ENDED).nth(1).and_then(|s| s.split_whitespace().next());
        Ok((code.context("an exit code")?.parse()?, screen))
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // What runs on it ends with its terminal.
        let _ = self.tmux(&["kill-server"]);
    }
}
