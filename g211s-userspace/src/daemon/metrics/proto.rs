//! Prometheus's protobuf exposition (`io.prometheus.client`, `metrics.proto` of `prometheus/client_model`): as much of
//! it as is written. Must not know what the metrics mean.

use prost::Message;

use super::expose::{Family, Kind, Value, label_name};
use super::histogram::{Histogram, Native};

#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

/// Of a gauge or counter.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(super) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub(super) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) length: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HistogramMessage {
    #[prost(uint64, optional, tag = "1")]
    pub(super) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(super) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(super) positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "true", tag = "13")]
    pub(super) positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(super) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<HistogramMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) help: Option<String>,
    /// COUNTER 0, GAUGE 1, HISTOGRAM 4.
    #[prost(int32, optional, tag = "3")]
    pub(super) kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    pub(super) unit: Option<String>,
}

/// Values below this are zero in a native histogram, seconds: Prometheus's own default, 2^-128.
const ZERO_THRESHOLD: f64 = 2.938_735_877_055_719e-39;

/// Appends a family, with its length before it.
pub(super) fn push(out: &mut Vec<u8>, family: &Family, schema: i32) {
    let name = family.prometheus_name();
    let metric = family.series.iter().map(|(labels, value)| {
        let label = labels.iter().map(|(name, value)| LabelPair {
            name: Some(label_name(name)),
            value: Some(value.clone()),
        });
        let mut metric = Metric { label: label.collect(), ..Metric::default() };
        match value {
            Value::Histogram(h) => metric.histogram = Some(histogram(h, schema)),
            Value::Number(n) if family.kind == Kind::Counter => {
                metric.counter = Some(Number { value: Some(*n) });
            }
            Value::Number(n) => metric.gauge = Some(Number { value: Some(*n) }),
        }
        metric
    });
    let message = MetricFamily {
        name: Some(if family.kind == Kind::Counter { format!("{name}_total") } else { name }),
        help: Some(family.help.to_owned()),
        kind: Some(match family.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 4,
        }),
        metric: metric.collect(),
        unit: None,
    };
    out.extend_from_slice(&message.encode_length_delimited_to_vec());
}

fn histogram(h: &Histogram, schema: i32) -> HistogramMessage {
    let classic = h.classic().into_iter();
    let bucket =
        classic.map(|(edge, n)| Bucket { cumulative_count: Some(n), upper_bound: Some(edge) });
    let native = h.native();
    let (positive_span, positive_delta) = spans(&native);
    HistogramMessage {
        sample_count: Some(h.count),
        sample_sum: Some(h.sum_ns as f64 / 1e9),
        bucket: bucket.collect(),
        schema: Some(schema),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(native.zero),
        positive_span,
        positive_delta,
    }
}

/// Runs of neighbouring buckets, and each bucket's difference to the one before it.
fn spans(native: &Native) -> (Vec<BucketSpan>, Vec<i64>) {
    let (mut spans, mut deltas): (Vec<BucketSpan>, Vec<i64>) = (Vec::new(), Vec::new());
    let (mut next, mut before) = (0, 0i64);
    for &(index, n) in &native.buckets {
        match spans.last_mut() {
            Some(span) if index == next => span.length = span.length.map(|l| l + 1),
            _ => spans.push(BucketSpan { offset: Some(index - next), length: Some(1) }),
        }
        next = index + 1;
        deltas.push(n as i64 - before);
        before = n as i64;
    }
    if spans.is_empty() {
        // By this an empty one is known as native.
        spans.push(BucketSpan { offset: Some(0), length: Some(0) });
    }
    (spans, deltas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::metrics::expose::{Format, tests::families};

    #[test]
    fn what_is_written_reads_back() {
        let bytes = Format::Protobuf.encode(&families());
        let mut rest = &bytes[..];
        let mut all = Vec::new();
        while !rest.is_empty() {
            all.push(MetricFamily::decode_length_delimited(&mut rest).expect("decodes"));
        }
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].name.as_deref(), Some("g211s_stall_time_seconds_total"));
        assert_eq!(all[0].metric[0].counter, Some(Number { value: Some(1.5) }));
        let h = all[2].metric[0].histogram.as_ref().expect("a histogram");
        assert_eq!((h.sample_count, h.schema, h.zero_count), (Some(4), Some(3), Some(1)));
        // 5 µs: log2 is -17.61, so index -140; 3 ms: -8.38, so -67.
        let spans: Vec<_> =
            h.positive_span.iter().map(|s| (s.offset.unwrap(), s.length.unwrap())).collect();
        assert_eq!(spans, [(-140, 1), (72, 1)]);
        assert_eq!(h.positive_delta, [1, 1]);
        assert_eq!(h.bucket.last().and_then(|b| b.cumulative_count), Some(4));
    }
}
