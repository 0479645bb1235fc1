//! Families of metrics in the formats that Prometheus scrapes: text 0.0.4, `OpenMetrics` 1.0, and protobuf, which alone
//! has native histograms. Must not know what the metrics mean.

use std::fmt::Write as _;

use super::histogram::{Histogram, SCHEMA};
use super::proto;

/// What a family's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution.
    Histogram,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Histogram),
}

/// Labels: name (of OpenTelemetry's, with dots) and value.
pub type Labels = Vec<(&'static str, String)>;

/// A family of series.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Its name in OpenTelemetry, with dots.
    pub name: &'static str,
    /// Its name in Prometheus without `_total`, where that is not the former with underscores and the unit.
    pub prometheus: Option<&'static str>,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// Its unit in UCUM: `s`, `By`, `%`, `{thing}`.
    pub unit: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// The series.
    pub series: Vec<(Labels, Value)>,
}

impl Family {
    /// The unit's word in Prometheus; empty where there is none.
    fn unit_word(&self) -> &'static str {
        match self.unit {
            "s" => "seconds",
            "By" => "bytes",
            "%" => "percent",
            _ => "",
        }
    }

    /// The name in Prometheus, without `_total`.
    pub fn prometheus_name(&self) -> String {
        if let Some(name) = self.prometheus {
            return name.to_owned();
        }
        let name = self.name.replace('.', "_");
        match self.unit_word() {
            "" => name,
            unit => format!("{name}_{unit}"),
        }
    }
}

/// A format of exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text.
    Text,
    /// `OpenMetrics`'s.
    OpenMetrics,
    /// Prometheus's protobuf, delimited.
    Protobuf,
}

impl Format {
    /// The best that an `Accept` header asks for.
    pub fn of_accept(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for entry in accept.split(',').take(32) {
            let mut parts = entry.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version, mut is_family, mut delimited) = (1.0, "", false, false);
            for part in parts {
                match part.split_once('=') {
                    Some(("q", q)) => quality = q.parse().unwrap_or(0.0),
                    Some(("version", v)) => version = v,
                    Some(("proto", p)) => is_family = p == "io.prometheus.client.MetricFamily",
                    Some(("encoding", e)) => delimited = e == "delimited",
                    _ => {}
                }
            }
            let format = match kind {
                "application/vnd.google.protobuf" if is_family && delimited => Self::Protobuf,
                "application/openmetrics-text"
                    if version.is_empty() || version.starts_with("1.") =>
                {
                    Self::OpenMetrics
                }
                "text/plain" if version.is_empty() || version == "0.0.4" => Self::Text,
                _ => continue,
            };
            if quality > best.0 {
                best = (quality, format);
            }
        }
        best.1
    }

    /// The `Content-Type` of it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// Families in it. Those without a series are left out.
    pub fn encode(self, families: &[Family]) -> Vec<u8> {
        let families = families.iter().filter(|f| !f.series.is_empty());
        if self == Self::Protobuf {
            let mut bytes = Vec::new();
            families.for_each(|f| proto::push(&mut bytes, f, SCHEMA));
            return bytes;
        }
        let mut text = String::new();
        families.for_each(|f| self.push(&mut text, f));
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text.into_bytes()
    }

    fn push(self, out: &mut String, family: &Family) {
        let open = self == Self::OpenMetrics;
        let name = family.prometheus_name();
        let sample = match family.kind {
            Kind::Counter => format!("{name}_total"),
            Kind::Gauge | Kind::Histogram => name.clone(),
        };
        let head = if open { &name } else { &sample };
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a String does not fail.
        let _ = writeln!(out, "# HELP {head} {}", escape(family.help, !open));
        let _ = writeln!(out, "# TYPE {head} {kind}");
        let unit = family.unit_word();
        if open && !unit.is_empty() && name.ends_with(unit) {
            let _ = writeln!(out, "# UNIT {head} {unit}");
        }
        for (labels, value) in &family.series {
            match value {
                Value::Number(n) => {
                    let _ = writeln!(out, "{sample}{} {}", braces(labels, None), number(*n));
                }
                Value::Histogram(h) => {
                    for (edge, n) in h.classic() {
                        let le = if edge.is_infinite() { "+Inf".to_owned() } else { number(edge) };
                        let _ = writeln!(out, "{name}_bucket{} {n}", braces(labels, Some(&le)));
                    }
                    let plain = braces(labels, None);
                    let _ = writeln!(out, "{name}_sum{plain} {}", number(h.sum_ns as f64 / 1e9));
                    let _ = writeln!(out, "{name}_count{plain} {}", h.count);
                }
            }
        }
    }
}

/// A label's name in Prometheus.
pub(super) fn label_name(name: &str) -> String {
    name.replace('.', "_")
}

fn braces(labels: &Labels, le: Option<&str>) -> String {
    let all = labels.iter().map(|(name, value)| (label_name(name), value.as_str()));
    let all = all.chain(le.map(|le| ("le".to_owned(), le)));
    let list: Vec<String> =
        all.map(|(name, value)| format!("{name}=\"{}\"", escape(value, false))).collect();
    if list.is_empty() { String::new() } else { format!("{{{}}}", list.join(",")) }
}

/// `is_help`: of text 0.0.4, where quotes stay.
fn escape(text: &str, is_help: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if is_help { text } else { text.replace('"', "\\\"") }
}

/// A float as both formats want it: with a decimal point or an exponent, so that `le` is the same in both.
fn number(n: f64) -> String {
    if n.is_infinite() {
        return if n > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    if n.fract() == 0.0 && n.abs() < 1e15 { format!("{n:.1}") } else { format!("{n}") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn families() -> Vec<Family> {
        let mut h = Histogram::default();
        for ns in [0, 5_000, 3_000_000, 3_000_000] {
            h.add(ns);
        }
        let labels = |v: &str| vec![("process.executable.name", v.to_owned())];
        let family = |name, help, unit, kind, series| Family {
            name,
            prometheus: None,
            help,
            unit,
            kind,
            series,
        };
        vec![
            family(
                "g211s.stall.time",
                "Time \"lost\".",
                "s",
                Kind::Counter,
                vec![(labels("a\"b\\c\nd"), Value::Number(1.5))],
            ),
            family(
                "go.goroutine.count",
                "G.",
                "{goroutine}",
                Kind::Gauge,
                vec![(Labels::new(), Value::Number(7.0))],
            ),
            family(
                "x.duration",
                "D.",
                "s",
                Kind::Histogram,
                vec![(labels("svc"), Value::Histogram(h))],
            ),
            family("nothing", "N.", "", Kind::Gauge, Vec::new()),
        ]
    }

    #[test]
    fn text_and_openmetrics() {
        let text = String::from_utf8(Format::Text.encode(&families())).unwrap();
        assert!(
            text.starts_with(
                "# HELP g211s_stall_time_seconds_total Time \"lost\".\n\
                 # TYPE g211s_stall_time_seconds_total counter\n\
                 g211s_stall_time_seconds_total{process_executable_name=\"a\\\"b\\\\c\\nd\"} 1.5\n"
            ),
            "{text}"
        );
        assert!(text.contains("\ngo_goroutine_count 7.0\n"), "{text}");
        assert!(text.contains(
            "x_duration_seconds_bucket{process_executable_name=\"svc\",le=\"0.000004096\"} 1\n"
        ));
        assert!(text.contains("le=\"0.004194304\"} 4\n") && text.contains("le=\"+Inf\"} 4\n"));
        assert!(
            text.contains("x_duration_seconds_sum{process_executable_name=\"svc\"} 0.006005\n")
        );
        assert!(!text.contains("nothing") && !text.contains("UNIT") && !text.contains("EOF"));
        let open = String::from_utf8(Format::OpenMetrics.encode(&families())).unwrap();
        assert!(open.starts_with(
            "# HELP g211s_stall_time_seconds Time \\\"lost\\\".\n# TYPE g211s_stall_time_seconds counter\n\
             # UNIT g211s_stall_time_seconds seconds\ng211s_stall_time_seconds_total{"
        ));
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn what_prometheus_asks_for() {
        // As Prometheus 2.4x sends it, without and with native histograms.
        let text = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                    q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::of_accept(text), Format::OpenMetrics);
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;\
                      q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(Format::of_accept(native), Format::Protobuf);
        assert_eq!(Format::of_accept("*/*"), Format::Text);
        assert_eq!(Format::of_accept(""), Format::Text);
        assert_eq!(Format::of_accept("application/openmetrics-text;version=2.0.0"), Format::Text);
    }
}
