//! What the user looks at: which service, which panel, which time, in which order. Must not know keys, nor how it is
//! drawn.

use super::input::Action;
use super::model::Model;
use super::model::history::Second;
use super::model::service::{Service, Watch};

/// Seconds in a column.
pub(crate) const ZOOMS: [u64; 6] = [1, 2, 5, 10, 30, 60];
/// Letters of a filter at most.
const MAX_FILTER: usize = 64;
/// Seconds that figures without a time axis are of.
pub(crate) const RECENT: u64 = 10;

/// The panels of which one is shown, or more where there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Panel {
    /// Verdicts as they happen.
    Verdicts,
    /// Threads, by M.
    Threads,
    /// Ps.
    Ps,
    /// The collector and the heap.
    Gc,
    /// Network polls.
    Network,
    /// What the user must know of the run.
    Notices,
}

impl Panel {
    /// In the order of their keys.
    pub(crate) const ALL: [Self; 6] =
        [Self::Verdicts, Self::Threads, Self::Ps, Self::Gc, Self::Network, Self::Notices];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Verdicts => "Verdicts",
            Self::Threads => "Threads",
            Self::Ps => "Ps",
            Self::Gc => "GC",
            Self::Network => "Network",
            Self::Notices => "Notices",
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|p| *p == self).unwrap_or(0)
    }
}

/// What threads are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadSort {
    /// Time on a run queue.
    Waiting,
    /// Time on a CPU.
    Running,
    /// M.
    M,
    /// Thread number.
    Tid,
}

/// What services are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceSort {
    /// The order in which they came.
    Came,
    /// Time on a run queue.
    Waiting,
    /// Time on a CPU.
    Cpu,
    /// Time stopped.
    Stopped,
    /// Live heap.
    Heap,
}

/// What verdicts are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineSort {
    /// The newest first.
    Time,
    /// The longest first.
    Length,
}

/// What was drawn, as far as keys depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Columns of the time axis.
    pub(crate) columns: u16,
    /// Rows of the panel.
    pub(crate) rows: u16,
    /// How far the panel can be scrolled.
    pub(crate) most: usize,
}

/// The state of the view.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Ui {
    /// The panel.
    pub(crate) panel: Panel,
    /// Index of the service.
    pub(crate) service: usize,
    /// Number of the second before which the view ends; `None`: now.
    pub(crate) end: Option<u64>,
    /// Seconds in a column.
    pub(crate) zoom: usize,
    /// Lines of the panel that are above it.
    pub(crate) scroll: usize,
    /// What threads are sorted by.
    pub(crate) threads: ThreadSort,
    /// What services are sorted by.
    pub(crate) services: ServiceSort,
    /// What verdicts are sorted by.
    pub(crate) lines: LineSort,
    /// The panel's order the other way round.
    pub(crate) reverse: bool,
    /// What threads and verdicts must contain.
    pub(crate) filter: String,
    /// The filter is being typed.
    pub(crate) typing: bool,
    /// The help is shown.
    pub(crate) help: bool,
    /// The user wants to leave.
    pub(crate) quit: bool,
    /// What was drawn last.
    pub(crate) drawn: Drawn,
}

impl Default for Ui {
    fn default() -> Self {
        Self {
            panel: Panel::Verdicts,
            service: 0,
            end: None,
            zoom: 0,
            scroll: 0,
            threads: ThreadSort::Waiting,
            services: ServiceSort::Came,
            lines: LineSort::Time,
            reverse: false,
            filter: String::new(),
            typing: false,
            help: false,
            quit: false,
            drawn: Drawn::default(),
        }
    }
}

impl Ui {
    /// Seconds in a column.
    pub(crate) fn span(&self) -> u64 {
        ZOOMS[self.zoom.min(ZOOMS.len() - 1)]
    }

    /// The second before which the view ends: a multiple of the column's, so that columns stay as they are while time
    /// goes on.
    pub(crate) fn end_of(&self, model: &Model) -> u64 {
        let (first, end) = model.window();
        let end = self.end.map_or(end, |at| at.clamp(first + 1, end));
        end.div_ceil(self.span()) * self.span()
    }

    /// The seconds that figures without a time axis are of.
    pub(crate) fn recent(&self, model: &Model) -> (u64, u64) {
        let (first, now) = model.window();
        let end = self.end.map_or(now, |at| at.clamp(first + 1, now));
        (end.saturating_sub(RECENT), end)
    }

    /// Does what the user asks for.
    pub(crate) fn act(&mut self, action: Action, model: &Model) {
        match action {
            Action::Quit => self.quit = true,
            Action::Help => (self.help, self.scroll) = (!self.help, 0),
            Action::Back if self.help => (self.help, self.scroll) = (false, 0),
            Action::Back => {
                (self.typing, self.scroll) = (false, 0);
                self.filter.clear();
            }
            Action::Accept => (self.typing, self.help) = (false, false),
            Action::Filter => (self.typing, self.scroll) = (true, 0),
            Action::Type(c) => {
                if self.filter.chars().count() < MAX_FILTER && !c.is_control() {
                    self.filter.push(c);
                    self.scroll = 0;
                }
            }
            Action::Erase => {
                self.filter.pop();
                self.scroll = 0;
            }
            // Of one service there is no other.
            Action::Service(by) if self.help || model.services.len() < 2 => {
                self.scroll_by(i64::from(by));
            }
            Action::Service(by) => self.other_service(by, model),
            Action::Scroll(by) => self.scroll_by(i64::from(by)),
            Action::Page(by) => {
                let rows = i64::from(self.drawn.rows.max(2) - 1);
                self.scroll_by(i64::from(by) * rows);
            }
            Action::Time(by) => self.time_by(i64::from(by), model),
            Action::TimePage(by) => {
                let columns = i64::from(self.drawn.columns.max(2) - 1);
                self.time_by(i64::from(by) * columns, model);
            }
            Action::Oldest => {
                let (first, end) = model.window();
                let screen = u64::from(self.drawn.columns) * self.span();
                self.end = Some((first + screen.max(1)).min(end));
            }
            Action::Live => self.end = None,
            Action::Pause => {
                self.end = if self.end.is_some() { None } else { Some(model.window().1) };
            }
            Action::Zoom(by) => {
                let zoom = self.zoom as i64 + i64::from(by);
                self.zoom = zoom.clamp(0, ZOOMS.len() as i64 - 1) as usize;
            }
            Action::Panel(by) => {
                let n = Panel::ALL.len() as i64;
                let at = (self.panel.index() as i64 + i64::from(by)).rem_euclid(n);
                self.show(Panel::ALL[at as usize]);
            }
            Action::PanelAt(at) => {
                if let Some(panel) = Panel::ALL.get(at) {
                    self.show(*panel);
                }
            }
            Action::Sort => self.sort(),
            Action::SortServices => {
                use ServiceSort::{Came, Cpu, Heap, Stopped, Waiting};
                self.services = match self.services {
                    Came => Waiting,
                    Waiting => Cpu,
                    Cpu => Stopped,
                    Stopped => Heap,
                    Heap => Came,
                };
            }
            Action::Reverse => self.reverse = !self.reverse,
            Action::Mark | Action::MarkAll | Action::Redraw => {}
        }
    }

    fn show(&mut self, panel: Panel) {
        if panel != self.panel {
            (self.panel, self.scroll, self.reverse) = (panel, 0, false);
        }
    }

    fn sort(&mut self) {
        if self.panel == Panel::Verdicts {
            self.lines = match self.lines {
                LineSort::Time => LineSort::Length,
                LineSort::Length => LineSort::Time,
            };
        } else {
            use ThreadSort::{M, Running, Tid, Waiting};
            self.threads = match self.threads {
                Waiting => Running,
                Running => M,
                M => Tid,
                Tid => Waiting,
            };
        }
        self.scroll = 0;
    }

    fn scroll_by(&mut self, by: i64) {
        let to = (self.scroll as i64).saturating_add(by).max(0);
        self.scroll = (to as usize).min(self.drawn.most);
    }

    fn time_by(&mut self, columns: i64, model: &Model) {
        let (first, now) = model.window();
        let at = self.end.unwrap_or(now) as i64;
        let to = at.saturating_add(columns.saturating_mul(self.span() as i64));
        // On beyond the last: with the time again.
        self.end = if to >= now as i64 { None } else { Some((to.max(0) as u64).max(first + 1)) };
    }

    fn other_service(&mut self, by: i32, model: &Model) {
        let order = self.order(model);
        let Some(at) = order.iter().position(|index| *index == self.service) else {
            self.service = order.first().copied().unwrap_or(0);
            return;
        };
        let to = (at as i64 + i64::from(by)).clamp(0, order.len() as i64 - 1);
        if order[to as usize] != self.service {
            (self.service, self.scroll) = (order[to as usize], 0);
        }
    }

    /// Indices of the services in their order on the screen.
    pub(crate) fn order(&self, model: &Model) -> Vec<usize> {
        let (from, to) = self.recent(model);
        let mut order: Vec<(u64, usize)> = model
            .services
            .iter()
            .enumerate()
            .map(|(index, s)| {
                let sum = || s.history.sum(from, to);
                let key = match self.services {
                    ServiceSort::Came => 0,
                    ServiceSort::Waiting => sum().waited_ns,
                    ServiceSort::Cpu => sum().on_cpu_ns,
                    ServiceSort::Stopped => sum().stopped_ns,
                    ServiceSort::Heap => sum().figures.heap_live.unwrap_or(0),
                };
                (u64::MAX - key, index)
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, index)| index).collect()
    }

    /// Whether a text, or a thread's number or M, passes the filter.
    pub(crate) fn passes(&self, texts: &[&str]) -> bool {
        let wanted = self.filter.to_lowercase();
        wanted.is_empty() || texts.iter().any(|t| t.to_lowercase().contains(&wanted))
    }
}

/// What is shown of a service in the last seconds.
pub(crate) fn recent(service: &Service, (from, to): (u64, u64)) -> Second {
    service.history.sum(from, to)
}

/// Whether a service is watched.
pub(crate) fn is_here(service: &Service) -> bool {
    service.watch == Watch::Here
}
