//! A headless Chromium, driven through chromedriver by the HTTP of <https://www.w3.org/TR/webdriver2/>, without a client
//! library: a handful of requests to a port of our own. Must not know what a page should look like.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::kernel;
use crate::proc::{Proc, Stream};

const PATIENCE: Duration = Duration::from_mins(1);
/// As root, without a screen, and without asking its makers for anything.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// A browser with one page. Closed when it goes out of scope.
pub struct Browser {
    driver: Proc,
    port: u16,
    session: String,
    profile: PathBuf,
}

/// Why no browser can be started here; `None`: one can.
pub fn missing() -> Option<String> {
    let gone: Vec<&str> =
        ["chromium", "chromedriver"].into_iter().filter(|t| kernel::find(t).is_none()).collect();
    (!gone.is_empty()).then(|| format!("{} missing: run `cargo xtask setup`", gone.join(" and ")))
}

impl Browser {
    /// Starts one, with a profile of its own.
    pub fn start() -> Result<Self> {
        let mut driver = Proc::spawn(kernel::tool("chromedriver")?.arg("--port=0"))?;
        let started = |l: &crate::proc::Line| {
            l.stream == Stream::Out && l.text.contains("successfully on port")
        };
        let line = driver.wait_line(started, PATIENCE)?.text;
        let port = line.trim_end_matches('.').rsplit(' ').next().and_then(|n| n.parse().ok());
        let port = port.with_context(|| format!("no port in {line:?}"))?;
        let profile = crate::target_dir().join("scratch").join(format!("browser-{}", driver.pid()));
        std::fs::create_dir_all(&profile)?;
        let mut args: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        args.push(format!("--user-data-dir={}", profile.display()));
        let mut browser = Self { driver, port, session: String::new(), profile };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": args, "binary": kernel::find("chromium").context("no chromium")? },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let answer = browser.send("POST", "/session", &wanted)?;
        let id = answer["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// Opens a file, and waits until it is loaded.
    pub fn open(&self, file: &Path) -> Result<()> {
        let file = file.canonicalize().with_context(|| file.display().to_string())?;
        self.send(
            "POST",
            &self.of("/url"),
            &json!({ "url": format!("file://{}", file.display()) }),
        )?;
        Ok(())
    }

    /// Runs a function's body in the page; what it returns.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.send("POST", &self.of("/execute/sync"), &json!({ "script": script, "args": [] }))
            .with_context(|| script.to_owned())
    }

    /// Runs it again and again until it returns something that is true.
    pub fn wait(&self, script: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let value = self.run(script)?;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return Ok(value);
            }
            ensure!(Instant::now() < deadline, "never true: {script}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Makes the window this large, in CSS pixels.
    pub fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size)
    }

    /// Has the system prefer `dark` or `light` colours.
    pub fn prefer(&self, scheme: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features)
    }

    /// Presses keys where the focus is.
    pub fn press(&self, keys: &str) -> Result<()> {
        let actions: Vec<Value> = keys
            .chars()
            .flat_map(|key| {
                ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() }))
            })
            .collect();
        let all = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] });
        self.send("POST", &self.of("/actions"), &all)?;
        Ok(())
    }

    /// Prints the page; the PDF in base64.
    pub fn print(&self) -> Result<String> {
        let pdf = self.send("POST", &self.of("/print"), &json!({ "background": true }))?;
        Ok(pdf.as_str().context("no PDF")?.to_owned())
    }

    /// What the page has said on its console since the last time, at the levels of warnings and errors.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let log = self.send("POST", &self.of("/se/log"), &json!({ "type": "browser" }))?;
        let entries = log.as_array().context("no log")?;
        let bad =
            entries.iter().filter(|e| matches!(e["level"].as_str(), Some("WARNING" | "SEVERE")));
        Ok(bad.map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect())
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Result<()> {
        let body = json!({ "cmd": command, "params": parameters });
        self.send("POST", &self.of("/goog/cdp/execute"), &body)?;
        Ok(())
    }

    fn of(&self, path: &str) -> String {
        format!("{}{path}", self.session)
    }

    /// One request; the answer's value.
    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).context("chromedriver")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        // The driver keeps the connection open, whatever it is asked for: the length says where the answer ends.
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line).with_context(|| format!("{method} {path}"))?;
            match line.trim_end().to_ascii_lowercase().split_once(':') {
                Some(("content-length", n)) => length = n.trim().parse().context("the length")?,
                Some(_) => {}
                None if line.trim_end().is_empty() => break,
                None => ensure!(line.starts_with("HTTP/1.1 "), "no HTTP answer: {line}"),
            }
        }
        let mut json = vec![0; length];
        answer.read_exact(&mut json).with_context(|| format!("{method} {path}"))?;
        let json = String::from_utf8(json).context("the answer is no text")?;
        let value: Value =
            serde_json::from_str(&json).with_context(|| format!("the answer {json:?}"))?;
        if let Some(error) = value["value"]["error"].as_str() {
            bail!(
                "{method} {path}: {error}: {}",
                value["value"]["message"].as_str().unwrap_or_default()
            );
        }
        Ok(value["value"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser is in the driver's hands: it ends with its session, and both with their process group.
        if !self.session.is_empty() {
            let _ = self.send("DELETE", &self.session, &Value::Null);
        }
        let _ = self.driver.signal(Signal::SIGTERM);
        let _ = self.driver.wait(Duration::from_secs(5));
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
