"""OTLP metrics as Prometheus' remote write takes them, for a Prometheus that was built without its
OTLP receiver, as Debian builds it.

Names and labels are made as that receiver makes them (prometheus/otlptranslator); where a server
has it, the server's own are tested. Source of the message: prompb/remote.proto and types.proto,
remote write 1.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from penstock.testing.otlp import texts

HEADERS = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}
_UNITS = {"s": "seconds", "By": "bytes"}
_REPEATED, _ONE = (
    descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
)
_KINDS = {"string": 9, "double": 1, "int64": 3}
_MESSAGES = {
    "Label": [("name", "string", _ONE), ("value", "string", _ONE)],
    "Sample": [("value", "double", _ONE), ("timestamp", "int64", _ONE)],
    "Exemplar": [("labels", "Label", _REPEATED), ("value", "double", _ONE), ("timestamp", "int64", _ONE)],
    "TimeSeries": [
        ("labels", "Label", _REPEATED),
        ("samples", "Sample", _REPEATED),
        ("exemplars", "Exemplar", _REPEATED),
    ],
    "WriteRequest": [("timeseries", "TimeSeries", _REPEATED)],
}


def _write_request() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="penstock/testing/remote_write.proto", package="penstock.testing", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, label) in enumerate(fields, 1):
            kinds = (
                {"type": _KINDS[kind]}
                if kind in _KINDS
                else {"type": 11, "type_name": f".penstock.testing.{kind}"}
            )
            message.field.add(name=field, number=number, label=label, **kinds)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("penstock.testing.WriteRequest"))


_WriteRequest = _write_request()


def body(export: bytes) -> bytes:
    """Body of a POST to /api/v1/write, made of an ExportMetricsServiceRequest."""
    request = _WriteRequest()
    for told in ExportMetricsServiceRequest.FromString(export).resource_metrics:
        resource = texts(told.resource.attributes)
        who = {"job": resource["service.name"], "instance": resource["service.instance.id"]}
        for scope in told.scope_metrics:
            for metric in scope.metrics:
                for name, labels, value, point, exemplars in _samples(metric):
                    series = request.timeseries.add()
                    for label, text in sorted({"__name__": name, **who, **labels}.items()):
                        series.labels.add(name=label, value=text)
                    series.samples.add(value=value, timestamp=point.time_unix_nano // 1_000_000)
                    for exemplar in exemplars:
                        at = exemplar.time_unix_nano // 1_000_000
                        kept = series.exemplars.add(value=exemplar.as_double, timestamp=at)
                        kept.labels.add(name="trace_id", value=exemplar.trace_id.hex())
    packed: bytes = pyarrow.compress(request.SerializeToString(), codec="snappy", asbytes=True)
    return packed


def _samples(metric: Metric) -> Iterator[tuple[str, dict[str, str], float, Any, list[Any]]]:
    unit = _UNITS.get(metric.unit)
    name = "_".join([*metric.name.split("."), *([unit] if unit else [])])
    if metric.HasField("histogram"):
        for point in metric.histogram.data_points:
            labels, below, counted = _labels(point), 0.0, 0
            for at, count in enumerate(point.bucket_counts):
                bound = point.explicit_bounds[at] if at < len(point.explicit_bounds) else float("inf")
                inside = [one for one in point.exemplars if below < one.as_double <= bound]
                counted, below = counted + count, bound
                yield (
                    f"{name}_bucket",
                    {**labels, "le": "+Inf" if bound == float("inf") else f"{bound:g}"},
                    counted,
                    point,
                    inside,
                )
            yield f"{name}_sum", labels, point.sum, point, []
            yield f"{name}_count", labels, point.count, point, []
        return
    counter = metric.HasField("sum") and metric.sum.is_monotonic
    points: Any = metric.sum.data_points if metric.HasField("sum") else metric.gauge.data_points
    for point in points:
        value = point.as_double if point.HasField("as_double") else float(point.as_int)
        yield f"{name}_total" if counter else name, _labels(point), value, point, []


def _labels(point: Any) -> dict[str, str]:
    return {name.replace(".", "_"): value for name, value in texts(point.attributes).items()}
