//! Numbers and foreign strings as people read them. Must not know what they mean.

/// A length of time with two digits or so: `950 ns`, `1.2 µs`, `41 ms`, `2.3 s`.
pub fn duration(ns: u64) -> String {
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")];
    // The unit of what will be printed: 999,960 ns is 1 ms, not 1000 µs.
    let (unit, name) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => units[2],
        999_500..999_500_000 => units[1],
        _ => units[0],
    };
    let tenths = (u128::from(ns) * 10 + unit / 2) / unit;
    if tenths < 100 && tenths % 10 != 0 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", (u128::from(ns) + unit / 2) / unit)
    }
}

/// A length of time, or `–` where not known.
pub fn maybe(ns: Option<u64>) -> String {
    ns.map_or_else(|| "–".to_owned(), duration)
}

/// A size: `950 B`, `1.5 KiB`, `123 MiB`.
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let (mut value, mut unit) = (n as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.995 {
        format!("{value:.1} {}", units[unit])
    } else {
        format!("{value:.0} {}", units[unit])
    }
}

/// A count with separators: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count of things: `1 stop`, `2,000 stops`.
pub fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A sum that stays at the largest number instead of going round: counts from a damaged recording
/// may be anything.
pub fn sum(values: impl IntoIterator<Item = u64>) -> u64 {
    values.into_iter().fold(0, u64::saturating_add)
}

/// A part of a whole in per cent; nothing of nothing is 0.
pub fn percent(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    format!("{share:.1} %")
}

/// A string from outside, harmless on a terminal: control characters (C0, DEL, C1, so no escape
/// sequence survives), line separators and characters that turn or hide text become `?`.
pub fn clean(s: &str) -> String {
    let harmful = |c: char| {
        c.is_control()
            || matches!(
                c,
                '\u{00ad}' | '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            )
    };
    s.chars().map(|c| if harmful(c) { '?' } else { c }).collect()
}

/// Text as HTML, XML and SVG have it, in attributes too.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A NUL-padded comm, harmless on a terminal.
pub fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    clean(&String::from_utf8_lossy(&bytes[..end]))
}

/// At most `max` characters of a string.
pub fn short(s: &str, max: usize) -> String {
    if s.chars().count() <= max {
        return s.to_owned();
    }
    let mut out: String = s.chars().take(max.saturating_sub(1)).collect();
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_in_powers_of_1024() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes(300 << 20), "300 MiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
    }

    #[test]
    fn durations() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1 µs"),
            (1_249, "1.2 µs"),
            (9_960, "10 µs"),
            (999_499, "999 µs"),
            (999_500, "1 ms"),
            (41_000_000, "41 ms"),
            (999_500_000, "1 s"),
            (2_340_000_000, "2.3 s"),
            (u64::MAX, "18446744074 s"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
        }
    }

    #[test]
    fn counts_and_parts() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(percent(1, 3), "33.3 %");
        assert_eq!(percent(0, 0), "0.0 %");
        assert_eq!(short("abcdef", 4), "abc…");
    }

    #[test]
    fn no_escape_survives() {
        assert_eq!(comm(b"\x1b[31mred\x07\0junk"), "?[31mred?");
        assert_eq!(clean("a\u{9b}31m\u{202e}b\r\n"), "a?31m?b??");
    }

    proptest! {
        #[test]
        fn cleaned_strings_hold_no_controls(s in any::<String>()) {
            prop_assert!(!clean(&s).chars().any(char::is_control));
        }
    }
}
