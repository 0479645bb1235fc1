//! The model as a screen. Must not know the terminal, where the model comes from, or keys (bar their names in the help).

pub(crate) mod canvas;
mod gc;
mod help;
mod lines;
mod network;
mod services;
mod threads;
mod time;
mod words;

use super::model::Model;
use super::model::service::Service;
use super::ui::{Drawn, Panel, Ui};
use crate::report::format::{bytes, count};

use canvas::{Canvas, Tone};
use words::{clock, clock_of_second, percent, rate};

/// Where a panel says why it is empty.
pub(crate) fn empty(canvas: &mut Canvas<'_>, y: u16, why: &str) {
    let room = usize::from(canvas.area.width.saturating_sub(2));
    for (line, y) in canvas::wrap(why, room).iter().zip(y..) {
        canvas.text(1, y, line, Tone::Dim);
    }
}

/// Whether the terminal is too small for anything.
const LEAST: (u16, u16) = (20, 5);

/// Draws everything; what keys need to know of it.
pub(crate) fn draw(canvas: &mut Canvas<'_>, model: &Model, ui: &Ui) -> Drawn {
    let (width, height) = (canvas.area.width, canvas.area.height);
    if width < LEAST.0 || height < LEAST.1 {
        canvas.text(0, 0, "g211s top: too small", Tone::Plain);
        return Drawn::default();
    }
    let mut drawn = Drawn { columns: time::columns(width), ..Drawn::default() };
    head(&mut canvas.part(0, 0, width, 1), model, ui);
    cost(&mut canvas.part(0, 1, width, 1), model);
    foot(&mut canvas.part(0, height - 1, width, 1), ui);
    if ui.help {
        drawn.most = help::draw(&mut canvas.part(0, 2, width, height - 3), ui.scroll);
        drawn.rows = height - 3;
        return drawn;
    }
    if model.head.is_none() {
        empty(&mut canvas.part(0, 2, width, height - 3), 1, "attaching …");
        return drawn;
    }
    if model.services.is_empty() {
        empty(&mut canvas.part(0, 2, width, height - 3), 1, "No process is watched.");
        return drawn;
    }
    let plan = Plan::new(width, height, model.services.len());
    let mut y = 2;
    services::draw(&mut canvas.part(0, y, width, plan.services), model, ui);
    y += plan.services;
    let service = model.services.get(ui.service).unwrap_or(&model.services[0]);
    if plan.time > 0 {
        time::draw(&mut canvas.part(0, y, width, plan.time), model, service, ui);
        y += plan.time;
    }
    let lower = height - 1 - y;
    // Where there is room, verdicts stay in view beside another panel.
    let two = lower >= 16 && ui.panel != Panel::Verdicts;
    let first = if two { lower / 2 } else { lower };
    if two {
        let half = &mut canvas.part(0, y, width, lower - first);
        half.rule(0, "Verdicts");
        let mut inner = half.part(0, 1, width, lower - first - 1);
        lines::draw(&mut inner, model, &Ui { scroll: 0, ..ui.clone() }, lines::What::Verdicts);
        y += lower - first;
    }
    let mut panel = canvas.part(0, y, width, first);
    tabs(&mut panel, model, ui);
    let mut inner = panel.part(0, 1, width, first.saturating_sub(1));
    drawn.rows = inner.area.height;
    drawn.most = draw_panel(&mut inner, model, service, ui);
    drawn
}

fn draw_panel(canvas: &mut Canvas<'_>, model: &Model, service: &Service, ui: &Ui) -> usize {
    match ui.panel {
        Panel::Verdicts => lines::draw(canvas, model, ui, lines::What::Verdicts),
        Panel::Threads => threads::draw(canvas, model, service, ui),
        Panel::Ps => threads::draw_ps(canvas, model, service, ui),
        Panel::Gc => gc::draw(canvas, model, service, ui),
        Panel::Network => network::draw(canvas, model, service, ui),
        Panel::Notices => lines::draw(canvas, model, ui, lines::What::Notices),
    }
}

/// Rows for what is above the panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    services: u16,
    time: u16,
}

impl Plan {
    fn new(_width: u16, height: u16, services: usize) -> Self {
        // Two at the top, one at the bottom.
        let room = height.saturating_sub(3);
        let most = if height < 14 { 1 } else { (height / 6).min(12) };
        let services = 1 + (services as u16).clamp(1, most.max(1));
        let left = room.saturating_sub(services);
        let time = match left {
            0..10 => 0,
            10..17 => time::SMALL,
            17..30 => time::MEDIUM,
            _ => time::LARGE,
        };
        Self { services, time }
    }
}

fn head(canvas: &mut Canvas<'_>, model: &Model, ui: &Ui) {
    let mut x = canvas.text(0, 0, "g211s top", Tone::Head);
    let (_, end) = model.window();
    let state = match (ui.end, &model.ended) {
        (Some(at), _) => {
            format!(
                "PAUSED at {}, {} s back",
                clock_of_second(model, at.min(end)),
                end - at.min(end)
            )
        }
        (None, Some(why)) => format!("ENDED ({})", why.replace('_', " ")),
        (None, None) => "live".to_owned(),
    };
    let tone = if ui.end.is_some() { Tone::Warn } else { Tone::Good };
    x = canvas.text(x + 2, 0, &state, tone);
    let mut right = clock(model, model.now_ns) + " UTC";
    if let Some(head) = &model.head {
        right = format!("{}, {} CPUs  {right}", head.hostname, head.cpus);
    }
    let room = usize::from(canvas.area.width.saturating_sub(x + 2));
    if canvas::width(&right) > room {
        right = clock(model, model.now_ns) + " UTC";
    }
    if canvas::width(&right) <= room {
        canvas.text_before(canvas.area.width, 0, &right, Tone::Dim);
    }
}

/// What observing costs and what was lost is never out of view.
fn cost(canvas: &mut Canvas<'_>, model: &Model) {
    let cost = &model.cost;
    let loss = if cost.is_lossy() {
        let mut parts = Vec::new();
        if cost.lost > 0 {
            parts.push(format!("{} of {} events LOST", count(cost.lost), count(cost.produced)));
        }
        if cost.threads_full > 0 {
            parts.push(format!("{} threads NOT SEEN (table full)", count(cost.threads_full)));
        }
        if cost.undecodable > 0 {
            parts.push(format!("{} events NOT UNDERSTOOD", count(cost.undecodable)));
        }
        parts.join(", ")
    } else {
        format!("lost: 0 of {} events", count(cost.produced))
    };
    let tone = if cost.is_lossy() { Tone::Bad } else { Tone::Plain };
    let x = canvas.text(0, 0, &loss, tone);
    let mut parts = Vec::new();
    if let Some(cpu) = cost.cpu {
        parts.push(format!("g211s {} CPU", percent(cpu)));
    }
    parts.extend(cost.rss_bytes.map(bytes));
    parts.extend(cost.hits_per_second.map(|n| format!("{} hits/s", rate(n))));
    parts.extend(cost.switches_per_second.map(|n| format!("{} switches/s", rate(n))));
    let text = if parts.is_empty() { "cost: not known yet".to_owned() } else { parts.join(", ") };
    let room = canvas.area.width.saturating_sub(x + 2);
    canvas.short(x + 2, 0, room, &text, Tone::Plain);
}

fn foot(canvas: &mut Canvas<'_>, ui: &Ui) {
    if ui.typing {
        let text = format!("filter: {}_   Enter: done  Esc: none", ui.filter);
        canvas.text(0, 0, &text, Tone::Head);
        return;
    }
    let mut keys = String::new();
    if !ui.filter.is_empty() {
        keys = format!("filter “{}” (Esc: none)  ", ui.filter);
        if !canvas.look.unicode {
            keys = format!("filter \"{}\" (Esc: none)  ", ui.filter);
        }
    }
    keys += if ui.help {
        "? or Esc: back  PgUp/PgDn: more"
    } else if ui.end.is_some() {
        "End: live  ←/→: time  +/-: zoom  Tab: panel  s: sort  /: filter  ?: help  q: quit"
    } else {
        "?: help  q: quit  space: pause  ←: back in time  Tab: panel  s: sort  /: filter"
    };
    let width = canvas.area.width;
    canvas.short(0, 0, width, &keys, Tone::Dim);
}

fn tabs(canvas: &mut Canvas<'_>, model: &Model, ui: &Ui) {
    canvas.rule(0, "");
    let mut x = 1;
    let wide = canvas.area.width >= 70;
    for (panel, key) in Panel::ALL.into_iter().zip(1..) {
        let mut name = panel.name().to_owned();
        let what = match panel {
            Panel::Verdicts => Some(lines::What::Verdicts),
            Panel::Notices => Some(lines::What::Notices),
            _ => None,
        };
        if let Some(what) = what {
            let n = model.lines.newest_first().filter(|l| what.takes(l.kind)).count();
            if n > 0 {
                name = format!("{name} ({n})");
            }
        }
        let text =
            if wide || panel == ui.panel { format!(" {key} {name} ") } else { format!(" {key} ") };
        let tone = if panel == ui.panel { Tone::Selected } else { Tone::Plain };
        x = canvas.text(x, 0, &text, tone);
        x += 1;
    }
    let order = match ui.panel {
        Panel::Verdicts => match ui.lines {
            super::ui::LineSort::Time => " newest first ",
            super::ui::LineSort::Length => " longest first ",
        },
        _ => return,
    };
    let width = canvas.area.width;
    if usize::from(width) > usize::from(x) + order.len() + 1 {
        canvas.text_before(width - 1, 0, order, Tone::Dim);
    }
}

#[cfg(test)]
mod tests;
