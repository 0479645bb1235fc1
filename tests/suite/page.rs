//! `g211s report --html` in a browser: the page of a live recording renders without a word on the console, its pictures
//! have data, tables sort, a pause leads to its culprit in the timeline, in dark and light, on a telephone and on paper;
//! and names that are markup stay names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use g211s::event::Event;
use g211s::record::Record;
use g211s::recording::{Reader, Writer};
use g211s_tests::agent::{self, Attach};
use g211s_tests::browser::{self, Browser};
use g211s_tests::service::{Hog, Launch};
use g211s_tests::{go, needs_kernel, proc, run_all, skip, target_dir};
use serde_json::Value;

/// A page's size at most; a recording of ten minutes has to fit.
const MAX_BYTES: u64 = 5_000_000;
/// Names that would run, or end what they stand in.
const HOSTILE: [&str; 3] = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=2>",
    "\u{2028}\"'`<b>",
];

fn scratch(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("scratch");
    std::fs::create_dir_all(&folder)?;
    Ok(folder.join(format!("{}-{name}", std::process::id())))
}

/// A file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> Result<Self> {
        Ok(Self(scratch(name)?))
    }

    fn text(&self) -> Result<String> {
        self.0.to_str().map(str::to_owned).context("a path in UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A service beside a hog whose very name is markup, recorded.
fn recording() -> Result<File> {
    let cpu = *proc::cpus()?.last().context("no CPU")?;
    let service = Launch::new("gcstorm", go::NEW)
        .args(&["-rate", "2000"])
        .env("GOMAXPROCS", "4")
        .cpus(&[cpu])
        .start()?;
    let _hog = Hog::start("<img src=x>", cpu)?;
    let file = File::new("page.g211s")?;
    let seconds = Duration::from_secs(if run_all() { 20 } else { 4 });
    Attach::new(service.pid(), seconds).record(&file.0).report()?;
    Ok(file)
}

/// The page of a recording.
fn page_of(recording: &Path, name: &str) -> Result<File> {
    let page = File::new(name)?;
    let recording = recording.to_str().context("a path in UTF-8")?;
    let run = agent::run(&["report", recording, "--html", &page.text()?])?;
    ensure!(run.code() == 0, "exit code {}: {}", run.code(), run.stderr());
    ensure!(!run.stdout().is_empty(), "the report itself is missing");
    let bytes = std::fs::metadata(&page.0)?.len();
    println!("{name}: {bytes} bytes");
    ensure!(bytes < MAX_BYTES, "{bytes} bytes");
    Ok(page)
}

fn open(browser: &Browser, page: &File) -> Result<()> {
    browser.open(&page.0)?;
    browser.wait("return document.documentElement.dataset.ready === '1'")?;
    // Pictures are drawn once their places have a size.
    browser.wait("return [...document.querySelectorAll('canvas, #main svg')].every((p) => p.dataset.drawn !== undefined)")?;
    Ok(())
}

/// Nothing was said on the console, and no part failed.
fn is_well(browser: &Browser, what: &str) -> Result<()> {
    let said = browser.complaints()?;
    ensure!(said.is_empty(), "{what}: {said:#?}");
    let failed = browser.run("return document.querySelectorAll('section .alarm').length")?;
    ensure!(failed == 0, "{what}: {failed} parts failed");
    Ok(())
}

fn number(browser: &Browser, script: &str) -> Result<f64> {
    browser.run(script)?.as_f64().with_context(|| format!("no number: {script}"))
}

/// Each picture that must have something in it.
fn pictures(browser: &Browser) -> Result<()> {
    for (what, selector, least) in [
        ("timeline", "#timeline canvas.live", 50.0),
        ("overview", "#timeline canvas.pick", 3.0),
        ("stops by length", "#heat .wide canvas", 5.0),
        ("cycles", "#gc-charts .stops svg", 3.0),
        ("heap", "#gc-charts .heap svg", 3.0),
        ("averages around collections", "#together .aligned svg", 60.0),
        ("intervals", "#together .scatter svg", 20.0),
        ("lags", "#together .lags svg", 5.0),
    ] {
        let drawn = number(
            browser,
            &format!("return Number(document.querySelector('{selector}')?.dataset.drawn ?? -1)"),
        )?;
        ensure!(drawn >= least, "{what}: {drawn} drawn");
    }
    // Not only counted: a canvas has pixels of several colours.
    let colours = number(
        browser,
        "const c = document.querySelector('#timeline canvas.live'), p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
         const seen = new Set();
         for (let i = 0; i < p.length; i += 4) if (p[i + 3] === 255) seen.add((p[i] << 16) | (p[i + 1] << 8) | p[i + 2]);
         return seen.size",
    )?;
    ensure!(colours >= 6.0, "the timeline has {colours} colours");
    Ok(())
}

/// A click on a head sorts, by value and not by what is printed, and a second one the other way.
fn sorting(browser: &Browser) -> Result<()> {
    let column = "const t = [...document.querySelectorAll('#figures table')].at(-1), i = 3;
                  const value = (s) => { const m = /([\\d.,]+) (ns|µs|ms|s)/.exec(s); return m ? Number(m[1].replaceAll(',', '')) * { ns: 1, 'µs': 1e3, ms: 1e6, s: 1e9 }[m[2]] : -1; };";
    for (order, sign) in [("descending", 1.0), ("ascending", -1.0)] {
        browser.run(&format!("{column} t.querySelectorAll('th button')[i].click()"))?;
        let sorted = browser.run(&format!(
            "{column} return t.querySelectorAll('th')[i].getAttribute('aria-sort')"
        ))?;
        ensure!(sorted == order, "aria-sort is {sorted}, not {order}");
        let values = browser.run(&format!("{column} return [...t.querySelectorAll('tbody tr')].map((r) => value(r.cells[i].textContent))"))?;
        let values: Vec<f64> =
            values.as_array().context("rows")?.iter().filter_map(Value::as_f64).collect();
        ensure!(values.len() >= 3, "{values:?}");
        ensure!(values.windows(2).all(|w| sign * (w[0] - w[1]) >= 0.0), "{order}: {values:?}");
    }
    Ok(())
}

/// The worst pause: a click shows it in the timeline, closely; keys go on from there.
fn jumping(browser: &Browser) -> Result<()> {
    let in_view = "return document.getElementById('timeline-now').textContent";
    let before = browser.run(in_view)?;
    browser.run("document.querySelector('[data-pause=\"0\"]').click()")?;
    let told = browser
        .wait("return document.querySelector('#timeline .detail:not([hidden]) p')?.textContent")?;
    let first = browser
        .run("return document.querySelector('[data-pause=\"0\"] .say').firstChild.textContent")?;
    ensure!(told == first, "{told} is not {first}");
    browser.wait(&format!("{in_view} !== {before}"))?;
    let close = browser.run(in_view)?;
    ensure!(
        browser.run("return document.activeElement.getAttribute('aria-roledescription')")?
            == "timeline",
        "no focus"
    );
    browser.press("-")?;
    browser.wait(&format!("{in_view} !== {close}"))?;
    browser.press("n")?;
    browser.wait("return document.querySelector('[data-pause][aria-pressed=\"true\"]')?.dataset.pause !== '0'")?;
    browser.press("0")?;
    browser.wait("return document.querySelector('#timeline .detail').hidden")?;
    Ok(())
}

fn colours(browser: &Browser) -> Result<()> {
    let paper = "return getComputedStyle(document.body).backgroundColor";
    browser.prefer("dark")?;
    browser.wait("return document.documentElement.hasAttribute('data-dark')")?;
    let dark = browser.run(paper)?;
    browser.prefer("light")?;
    browser.wait("return !document.documentElement.hasAttribute('data-dark')")?;
    ensure!(browser.run(paper)? != dark, "dark is light");
    browser.run("document.querySelector('button[data-theme=dark]').click()")?;
    ensure!(browser.run(paper)? == dark, "the switch does nothing");
    is_well(browser, "dark")?;
    browser.run("document.querySelector('button[data-theme=auto]').click()")?;
    Ok(())
}

/// Nothing is wider than the window, from a telephone to a wall.
fn sizes(browser: &Browser) -> Result<()> {
    for (width, height) in [(360, 740), (820, 1180), (3840, 2160), (1280, 900)] {
        browser.resize(width, height)?;
        let fits = format!(
            "return innerWidth === {width} && document.documentElement.scrollWidth <= {width}"
        );
        browser.wait(&fits).with_context(|| {
            let wide = browser.run("return [...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll')).slice(0, 5).map((e) => `${e.tagName}.${e.className} ${Math.round(e.getBoundingClientRect().right)}`)");
            format!("at {width}: {wide:?}")
        })?;
        is_well(browser, &format!("at {width}"))?;
    }
    Ok(())
}

/// Names that are markup are shown and nothing more.
fn hostile(browser: &Browser, recording: &File) -> Result<()> {
    let crafted = File::new("hostile.g211s")?;
    let mut writer = Writer::create(&crafted.0)?;
    for record in Reader::open(&recording.0)? {
        let mut record = record?;
        match &mut record {
            Record::Start(start) => {
                start.host.hostname = HOSTILE[1].into();
                for t in &mut start.targets {
                    (t.exe, t.comm, t.cgroup) =
                        (HOSTILE[1].into(), HOSTILE[0].into(), HOSTILE[2].into());
                    t.go_version = HOSTILE[0].into();
                    t.probes.iter_mut().for_each(|p| p.function = HOSTILE[1].into());
                }
            }
            Record::Process(p) => (p.comm, p.cmdline) = (HOSTILE[1].into(), HOSTILE[0].into()),
            Record::Thread(t) => t.comm = HOSTILE[0].into(),
            Record::Notice(n) => n.text = HOSTILE[1].into(),
            Record::Symbol(s) => s.frames.iter_mut().for_each(|f| f.function = HOSTILE[0].into()),
            Record::Event(Event::Slice(s)) if s.header.tid != 0 => s.comm = *b"</script><b>x\0\0\0",
            _ => {}
        }
        writer.write(&record)?;
    }
    writer.finish()?;
    let page = page_of(&crafted.0, "hostile.html")?;
    open(browser, &page)?;
    is_well(browser, "hostile names")?;
    let ran = browser.run("return window.hacked ?? null")?;
    ensure!(ran.is_null(), "a name was run: {ran}");
    let elements =
        number(browser, "return document.querySelectorAll('img, b:not(.card b), script').length")?;
    ensure!(elements <= 2.0, "{elements} elements that are none of the page's");
    let name = browser.run("return document.getElementById('name').textContent")?;
    ensure!(name == HOSTILE[1], "the name is {name}");
    // Were a script to get in, it would not run; nor would anything load.
    browser.run("const s = document.createElement('script'); s.id = 'in'; document.body.append(s);
         try { s.text = 'window.hacked = 3'; } catch { }
         try { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=window.hacked=4>'); } catch { }
         return fetch('http://127.0.0.1:9/').then(() => { window.hacked = 5; }, () => null)")?;
    let ran = browser.run("return window.hacked ?? null")?;
    ensure!(ran.is_null(), "the page's policy let {ran} happen");
    ensure!(!browser.complaints()?.is_empty(), "the browser did not say that it refused");
    Ok(())
}

#[test]
fn a_page_renders_and_answers() -> Result<()> {
    needs_kernel!();
    if let Some(why) = browser::missing() {
        skip!("{why}");
    }
    let recording = recording()?;
    let page = page_of(&recording.0, "page.html")?;
    let browser = Browser::start()?;
    browser.resize(1280, 900)?;
    open(&browser, &page)?;
    is_well(&browser, "the page")?;
    pictures(&browser)?;
    sorting(&browser)?;
    jumping(&browser)?;
    let text = browser.run("return document.body.textContent")?;
    ensure!(text.as_str().is_some_and(|t| t.contains("<img src=x>")), "the hog is not named");
    ensure!(browser.run("return document.images.length")? == 0, "its name became an image");
    is_well(&browser, "after all that")?;
    colours(&browser)?;
    sizes(&browser)?;
    ensure!(browser.print()?.len() > 20_000, "the print is empty");
    is_well(&browser, "printing")?;
    hostile(&browser, &recording)
}

#[test]
fn allocations_render() -> Result<()> {
    needs_kernel!();
    if let Some(why) = browser::missing() {
        skip!("{why}");
    }
    let service = Launch::new("service", go::NEW).args(&["-rate", "60"]).start()?;
    let recording = File::new("allocs.g211s")?;
    let pid = service.pid().to_string();
    let run =
        agent::run(&["allocs", "--pid", &pid, "--duration", "3s", "--record", &recording.text()?])?;
    ensure!(run.code() == 0, "{}", run.stderr());
    let page = page_of(&recording.0, "allocs.html")?;
    let browser = Browser::start()?;
    browser.resize(1280, 900)?;
    open(&browser, &page)?;
    is_well(&browser, "the page")?;
    let drawn = number(
        &browser,
        "return Number(document.querySelector('#allocs .flame canvas')?.dataset.drawn ?? -1)",
    )?;
    ensure!(drawn >= 3.0, "{drawn} frames drawn");
    let found = browser.run(
        "const i = document.querySelector('#allocs input'); i.value = 'main.allocate'; i.dispatchEvent(new Event('input'));
         return i.nextElementSibling.textContent",
    )?;
    let share = found.as_str().and_then(|t| t.split_once(", ")).map_or("", |(_, share)| share);
    ensure!(share.contains('%') && !share.starts_with("0.0"), "found: {found}");
    let row = browser.run("return document.querySelector('#allocs tbody tr').textContent")?;
    ensure!(row.as_str().is_some_and(|t| t.contains("main.allocate")), "the first site is {row}");
    is_well(&browser, "after a search")
}
