"""Reads requests to an OpenTelemetry collector with OpenTelemetry's published message definitions (the package
`opentelemetry-proto`) and says what is in them. A field that they do not know, or that breaks a rule of the data
model's, ends it with an error.

usage: check_otlp.py METRICS LOGS
Prints one line of JSON.
"""

import json
import sys

from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

CUMULATIVE = 2


def known(message):
    """No field of it or in it is one that the definitions do not have."""
    assert len(UnknownFieldSet(message)) == 0, f"unknown fields in {message}"
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in value if field.is_repeated else [value]:
            known(one)


def plain(attributes):
    named = {}
    for a in attributes:
        assert a.key and a.key not in named, f"twice: {a.key}"
        named[a.key] = getattr(a.value, a.value.WhichOneof("value"))
    return named


def points(metric):
    what = metric.WhichOneof("data")
    data = getattr(metric, what)
    assert data.data_points, metric.name
    if what != "gauge":
        assert data.aggregation_temporality == CUMULATIVE, metric.name
    if what == "sum":
        assert data.is_monotonic, metric.name
    seen = set()
    for p in data.data_points:
        labels = plain(p.attributes)
        key = json.dumps(labels, sort_keys=True)
        assert key not in seen, f"{metric.name}: twice {key}"
        seen.add(key)
        if what != "gauge":
            assert 0 < p.start_time_unix_nano < p.time_unix_nano, metric.name
        point = {"kind": what, "name": metric.name, "unit": metric.unit, "labels": labels}
        if what == "exponential_histogram":
            counts = list(p.positive.bucket_counts)
            assert p.count == p.zero_count + sum(counts) + sum(p.negative.bucket_counts), metric.name
            # The sum lies between the sums of the buckets' lower and upper edges (half a bucket to spare).
            base = 2.0 ** (2.0 ** -p.scale)
            low = sum(n * base ** (p.positive.offset + i - 0.5) for i, n in enumerate(counts))
            high = sum(n * base ** (p.positive.offset + i + 1.5) for i, n in enumerate(counts))
            assert low <= p.sum <= high or not counts, f"{metric.name}: {p.sum} is not in {low} to {high}"
            point.update(count=p.count, sum=p.sum)
        else:
            point["value"] = p.as_double
        yield point


def main():
    metrics = ExportMetricsServiceRequest.FromString(open(sys.argv[1], "rb").read())
    logs = ExportLogsServiceRequest.FromString(open(sys.argv[2], "rb").read())
    known(metrics)
    known(logs)
    told = {"resource": {}, "points": [], "logs": []}
    for of in metrics.resource_metrics:
        told["resource"] = plain(of.resource.attributes)
        for scope in of.scope_metrics:
            names = [m.name for m in scope.metrics]
            assert len(names) == len(set(names)), "a metric twice"
            for metric in scope.metrics:
                told["points"].extend(points(metric))
    for of in logs.resource_logs:
        assert plain(of.resource.attributes) == told["resource"]
        for scope in of.scope_logs:
            for record in scope.log_records:
                assert record.event_name and record.body.string_value, record
                assert record.time_unix_nano <= record.observed_time_unix_nano, record
                told["logs"].append({"name": record.event_name, "time": record.time_unix_nano,
                                     "body": record.body.string_value, "labels": plain(record.attributes)})
    print(json.dumps(told))


main()
