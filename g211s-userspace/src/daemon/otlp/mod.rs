//! Metrics and events as OTLP, and their way to a collector: OTLP/HTTP with protobuf bodies. Must not know how metrics
//! are counted.

mod client;
mod messages;

use messages::{
    Any, AnyValue, Buckets, CUMULATIVE, Data, ExponentialHistogram, ExponentialHistogramDataPoint,
    Gauge, INFO, KeyValue, LogRecord, LogsData, Metric, MetricsData, NumberDataPoint, Resource,
    ResourceLogs, ResourceMetrics, Scope, ScopeLogs, ScopeMetrics, Sum,
};
use prost::Message as _;

use super::metrics::expose::{Family, Kind, Value};
use super::metrics::histogram::{Histogram, SCHEMA};
use super::metrics::service::cause_name;
use super::state::Happened;
use crate::report::{Note, delay_sentence, sentence, sleep_sentence};

pub use client::post;

/// A span of time of which there are no values is bridged by zeros if it is not wider than this many buckets.
const MAX_BUCKETS: usize = 400;

/// Who speaks.
#[derive(Clone, Debug, Default)]
pub struct Speaker {
    /// `host.name`.
    pub host: String,
    /// When the agent began, ns since 1970: since then counters have risen.
    pub start_ns: u64,
}

fn text(value: &str) -> AnyValue {
    AnyValue { value: Some(Any::String(value.to_owned())) }
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn string(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::String(value.to_owned()))
}

fn int(key: &str, value: u64) -> KeyValue {
    attribute(key, Any::Int(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn scope() -> Scope {
    Scope { name: "g211s".into(), version: env!("CARGO_PKG_VERSION").into() }
}

impl Speaker {
    fn resource(&self) -> Resource {
        let attributes = vec![
            string("service.name", "g211s"),
            string("service.version", env!("CARGO_PKG_VERSION")),
            string("host.name", &self.host),
        ];
        Resource { attributes }
    }

    /// Families as a request for `/v1/metrics`.
    pub fn metrics(&self, families: &[Family], now_ns: u64) -> Vec<u8> {
        let families = families.iter().filter(|f| !f.series.is_empty());
        let metrics = families.map(|f| self.metric(f, now_ns)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics }];
        let resource_metrics =
            vec![ResourceMetrics { resource: Some(self.resource()), scope_metrics }];
        MetricsData { resource_metrics }.encode_to_vec()
    }

    fn metric(&self, family: &Family, now_ns: u64) -> Metric {
        let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
        for (labels, value) in &family.series {
            let attributes = labels.iter().map(|(name, value)| string(name, value)).collect();
            match value {
                Value::Number(n) => numbers.push(NumberDataPoint {
                    start_time_unix_nano: if family.kind == Kind::Counter {
                        self.start_ns
                    } else {
                        0
                    },
                    time_unix_nano: now_ns,
                    as_double: Some(*n),
                    attributes,
                }),
                Value::Histogram(h) => histograms.push(ExponentialHistogramDataPoint {
                    attributes,
                    start_time_unix_nano: self.start_ns,
                    time_unix_nano: now_ns,
                    ..exponential(h)
                }),
            }
        }
        let data = match family.kind {
            Kind::Gauge => Data::Gauge(Gauge { data_points: numbers }),
            Kind::Counter => Data::Sum(Sum {
                data_points: numbers,
                aggregation_temporality: CUMULATIVE,
                is_monotonic: true,
            }),
            Kind::Histogram => Data::ExponentialHistogram(ExponentialHistogram {
                data_points: histograms,
                aggregation_temporality: CUMULATIVE,
            }),
        };
        Metric {
            name: family.name.to_owned(),
            description: family.help.to_owned(),
            unit: family.unit.to_owned(),
            data: Some(data),
        }
    }

    /// Stops and long delays as a request for `/v1/logs`. `who` tells the attributes of a target's; `wall` turns the
    /// monotonic clock's time into ns since 1970.
    pub fn logs(
        &self,
        events: &[Happened],
        who: impl Fn(u8) -> Vec<(&'static str, String)>,
        wall: impl Fn(u64) -> u64,
        now_ns: u64,
    ) -> Vec<u8> {
        let record = |event: &Happened| {
            let (name, end_ns, body, mut attributes) = describe(&event.note)?;
            attributes.extend(who(event.target).iter().map(|(key, value)| string(key, value)));
            Some(LogRecord {
                time_unix_nano: wall(end_ns),
                observed_time_unix_nano: now_ns,
                severity_number: INFO,
                severity_text: "INFO".into(),
                body: Some(text(&body)),
                attributes,
                event_name: name.into(),
            })
        };
        let log_records = events.iter().filter_map(record).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records }];
        let resource_logs = vec![ResourceLogs { resource: Some(self.resource()), scope_logs }];
        LogsData { resource_logs }.encode_to_vec()
    }
}

/// The event's name, when it was over, its sentence and its attributes.
fn describe(note: &Note) -> Option<(&'static str, u64, String, Vec<KeyValue>)> {
    Some(match note {
        Note::Stop { stop, .. } => {
            let mut attributes = vec![
                string("g211s.stop.reason", &stop.reason),
                int("g211s.stop.duration_ns", stop.total_ns),
                int("g211s.stop.stopping_ns", stop.stopping_ns),
                int("g211s.stop.unexplained_ns", stop.unexplained_ns),
            ];
            if let Some(worst) = stop.causes.first() {
                attributes.push(string("g211s.cause", cause_name(worst.kind)));
                attributes.push(int("g211s.cause.duration_ns", worst.ns));
                if let Some(behind) = &worst.behind {
                    attributes.push(string("g211s.culprit", &behind.comm));
                    attributes.push(int("g211s.culprit.pid", behind.pid.into()));
                }
            }
            ("g211s.stop", stop.start_ns + stop.total_ns, sentence(stop), attributes)
        }
        Note::Delay { delay, .. } => {
            let mut attributes = vec![int("g211s.delay.duration_ns", delay.wait_ns)];
            if let Some(worst) = delay.causes.first() {
                attributes.push(string("g211s.cause", cause_name(worst.kind)));
                if let Some(behind) = &worst.behind {
                    attributes.push(string("g211s.culprit", &behind.comm));
                    attributes.push(int("g211s.culprit.pid", behind.pid.into()));
                }
            }
            ("g211s.delay", delay.start_ns + delay.wait_ns, delay_sentence(delay), attributes)
        }
        Note::Sleep { sleep, .. } => {
            let attributes = vec![int("g211s.sleep.duration_ns", sleep.ns)];
            ("g211s.sleep", sleep.start_ns + sleep.ns, sleep_sentence(sleep), attributes)
        }
        Note::Cycle { .. } | Note::Disagreement { .. } | Note::Notice(_) => return None,
    })
}

fn exponential(h: &Histogram) -> ExponentialHistogramDataPoint {
    let native = h.native();
    let mut buckets = Buckets::default();
    if let (Some((first, _)), Some((last, _))) = (native.buckets.first(), native.buckets.last()) {
        // OTLP's bucket i is (base^i, base^(i+1)], Prometheus's (base^(i-1), base^i].
        buckets.offset = first - 1;
        let len = ((last - first) as usize + 1).min(MAX_BUCKETS);
        buckets.bucket_counts = vec![0; len];
        for (index, n) in &native.buckets {
            let at = ((index - first) as usize).min(len - 1);
            buckets.bucket_counts[at] += n;
        }
    }
    ExponentialHistogramDataPoint {
        count: h.count,
        sum: Some(h.sum_ns as f64 / 1e9),
        scale: SCHEMA,
        zero_count: native.zero,
        positive: Some(buckets),
        ..ExponentialHistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_keeps_its_values() {
        let mut h = Histogram::default();
        for ns in [0, 5_000, 5_100, 3_000_000] {
            h.add(ns);
        }
        let point = exponential(&h);
        let positive = point.positive.expect("there are some");
        assert_eq!((point.count, point.zero_count, point.scale), (4, 1, 3));
        assert_eq!(positive.bucket_counts.iter().sum::<u64>(), 3);
        // Of 3 ms: the bucket's edges are around it.
        let last = positive.offset + positive.bucket_counts.len() as i32 - 1;
        let edge = |i: i32| (f64::from(i) / 8.0).exp2();
        assert!(edge(last) < 0.003 && 0.003 <= edge(last + 1));
        assert_eq!(exponential(&Histogram::default()).positive, Some(Buckets::default()));
    }

    #[test]
    fn families_become_metrics() {
        let speaker = Speaker { host: "h".into(), start_ns: 5 };
        let family = Family {
            name: "x.y",
            prometheus: None,
            help: "H.",
            unit: "s",
            kind: Kind::Counter,
            series: vec![(vec![("a.b", "c".into())], Value::Number(1.5))],
        };
        let bytes = speaker.metrics(&[family], 9);
        let read = MetricsData::decode(&bytes[..]).expect("decodes");
        let metric = &read.resource_metrics[0].scope_metrics[0].metrics[0];
        assert_eq!((metric.name.as_str(), metric.unit.as_str()), ("x.y", "s"));
        let Some(Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
        let point = &sum.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (5, 9));
        assert_eq!(point.as_double, Some(1.5));
        assert_eq!(point.attributes, [string("a.b", "c")]);
    }
}
