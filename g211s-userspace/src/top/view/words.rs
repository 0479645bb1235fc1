//! Numbers and moments as the view writes them. Must not know where.

use crate::report::format::{bytes, duration};

use super::super::model::Model;

/// A moment by the clock of the run's machine, UTC: `14:03:22`.
pub(crate) fn clock(model: &Model, ns: u64) -> String {
    let Some(seconds) = wall_ns(model, ns).map(|ns| ns / 1_000_000_000 % 86_400) else {
        return "--:--:--".to_owned();
    };
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The same with milliseconds.
pub(crate) fn clock_ms(model: &Model, ns: u64) -> String {
    let ms = wall_ns(model, ns).unwrap_or(0) / 1_000_000 % 1000;
    format!("{}.{ms:03}", clock(model, ns))
}

fn wall_ns(model: &Model, ns: u64) -> Option<u64> {
    let head = model.head.as_ref()?;
    // What began shortly before the run as well.
    let since = i128::from(ns) - i128::from(head.start_ns);
    u64::try_from(i128::from(head.wall_ns) + since).ok()
}

/// The moment at which a second of the run begins.
pub(crate) fn clock_of_second(model: &Model, second: u64) -> String {
    let start = model.head.as_ref().map_or(0, |h| h.start_ns);
    clock(model, start.saturating_add(second.saturating_mul(1_000_000_000)))
}

/// A number a second, short: `0`, `0.3`, `12`, `1.2k`, `15k`, `3.4M`.
pub(crate) fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second <= 0.0 {
        return "0".to_owned();
    }
    let (value, unit) = match per_second {
        v if v < 999.5 => (v, ""),
        v if v < 999_500.0 => (v / 1e3, "k"),
        v if v < 999_500_000.0 => (v / 1e6, "M"),
        v => (v / 1e9, "G"),
    };
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A count, short: `7`, `1.2k`.
pub(crate) fn many(n: u64) -> String {
    if n < 1000 { n.to_string() } else { rate(n as f64) }
}

/// A share in per cent: `0.3%`, `12%`; of several CPUs more than 100.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent < 9.95 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// A length, or a dash for none.
pub(crate) fn length(ns: u64) -> String {
    if ns == 0 { "–".to_owned() } else { duration(ns) }
}

/// A size, or a dash where not known.
pub(crate) fn size(n: Option<u64>) -> String {
    n.map_or_else(|| "–".to_owned(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_short() {
        let cases = [
            (0.0, "0"),
            (f64::NAN, "0"),
            (0.31, "0.3"),
            (12.4, "12"),
            (999.4, "999"),
            (1234.0, "1.2k"),
            (15_300.0, "15k"),
            (3_400_000.0, "3.4M"),
        ];
        for (n, text) in cases {
            assert_eq!(rate(n), text, "{n}");
        }
        assert_eq!([many(0), many(7), many(1200)], ["0", "7", "1.2k"]);
        assert_eq!([percent(0.003), percent(0.5), percent(1.99)], ["0.3%", "50%", "199%"]);
    }
}
