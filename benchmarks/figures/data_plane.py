"""Figures of events on their way in and of features on their way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.figures.figure import Figure


def of_ingest(found: Mapping[str, float]) -> Iterator[Figure]:
    share = found["share"]
    yield Figure(
        f"ingest, {found['bytes_per_event']:.0f} bytes, exactly once, against the pass-through, medians of"
        " runs in turn",
        "0.65",
        "0.8",
        f"{found['ingest_per_s']:,.0f} / {found['pass_through_per_s']:,.0f} events/s, {share:.2f}"
        f" [{found['least_share']:.2f}, {found['greatest_share']:.2f}]",
        share >= 0.65,
        share >= 0.8,
    )


def of_latency(found: Mapping[str, float]) -> Iterator[Figure]:
    for way, until, must, aim in (
        ("record", "its record is readable", 250, 60),
        ("features", "its entity's features are", 500, 120),
    ):
        p99 = found[f"{way}_p99_ms"]
        yield Figure(
            f"event published → {until}, p99 at {found['per_s']:,.0f} events/s, beside a bare loop"
            " that copies in transactions",
            f"{must} ms",
            f"{aim} ms",
            f"{p99:.0f} ms (p50 {found[f'{way}_p50_ms']:.0f}); {found['bare_p99_ms']:.0f} ms",
            p99 <= must,
            p99 <= aim,
        )


def of_online(found: Mapping[str, Any]) -> Iterator[Figure]:
    for count, entities in (("1", "1 entity"), ("100", "100 entities")):
        one = found[count]
        yield Figure(
            f"`GetOnlineFeatures`, {entities}: p50 against its statement and an echo of the same bytes",
            "1.3 ×",
            "1.2 ×",
            f"{one['p50_ms']:.2f} / ({one['read_ms']:.2f} + {one['echo_ms']:.2f}) ms, {one['ratio']:.2f}"
            f" [{one['least']:.2f}, {one['greatest']:.2f}]",
            one["ratio"] <= 1.3,
            one["ratio"] <= 1.2,
        )
    writing = found["writing"]
    yield Figure(
        f"the same, 100 entities, p99 while {writing['written_per_s']:,} records/s are written",
        "10 ms",
        "5 ms",
        f"{writing['p99_ms']:.1f} ms",
        writing["p99_ms"] <= 10,
        writing["p99_ms"] <= 5,
    )


def of_predict(found: Mapping[str, float]) -> Iterator[Figure]:
    yield Figure(
        "`Predict` by entity: p50 against the online read and the inference, each by itself",
        "1.5 ×",
        "1.2 ×",
        f"{found['predict_ms']:.2f} / ({found['features_ms']:.2f} + {found['infer_ms']:.2f}) ms,"
        f" {found['ratio']:.2f} [{found['least']:.2f}, {found['greatest']:.2f}]",
        found["ratio"] <= 1.5,
        found["ratio"] <= 1.2,
    )


def ingest_alone(found: Mapping[str, float]) -> Iterator[str]:
    """Events a second of ingest and of what bounds it, and the restoring of seen ids."""
    yield "| | events/s |"
    yield "|---|---|"
    yield f"| pass-through in the same transactions (the baseline) | {found['pass_through_per_s']:,.0f} |"
    yield f"| ingest | {found['ingest_per_s']:,.0f} |"
    yield f"| its work without Kafka | {found['without_kafka_per_s']:,.0f} |"
    yield ""
    yield (
        f"After a restart 2,000,000 seen ids are restored from full batches in"
        f" {found['restore_2m_ids_in_batches_s']:.1f} s,"
    )
    yield f"100,000 from transactions of one in {found['restore_100k_ids_one_by_one_s']:.1f} s."


DOOR_MUST_AND_AIM = {1: (0.66, 0.70), 8: (0.63, 0.70), 32: (0.60, 0.66)}
"""Shares of Triton's requests a second, by requests in flight."""


def of_serving(found: Mapping[str, Any]) -> Iterator[Figure]:
    rate = {(one["path"], one["in_flight"]): one["per_second"] for one in found["figures"]}
    for in_flight, (must, aim) in DOOR_MUST_AND_AIM.items():
        share = rate["door, recorded", in_flight] / rate["triton", in_flight]
        yield Figure(
            f"predictions recorded through the door, {in_flight} in flight, against Triton directly",
            f"{must:.2f}",
            f"{aim:.2f}",
            f"{share:.2f}",
            share >= must,
            share >= aim,
        )
    for in_flight in DOOR_MUST_AND_AIM:
        share = rate["door, recorded", in_flight] / rate["Envoy, nothing recorded", in_flight]
        yield Figure(
            f"the same, {in_flight} in flight, against an Envoy that records nothing",
            "0.80",
            "0.90",
            f"{share:.2f}",
            share >= 0.8,
            share >= 0.9,
        )
    answered, recorded = found["answered_through_the_door"], found["recorded"]
    yield Figure(
        "predictions answered through the door that have a record",
        "all",
        "–",
        f"{recorded:,} of {answered:,}",
        recorded == answered,
    )


def of_recorder(found: Mapping[str, float]) -> Iterator[Figure]:
    rate = found["recorder_per_s"]
    yield Figure(
        "predictions that one recorder publishes, exactly once, beside a producer of the same messages",
        "10,000 /s",
        "20,000 /s",
        f"{rate:,.0f} /s, {found['recorder_us']:.0f} µs of a processor each;"
        f" {found['producer_per_s']:,.0f} /s",
        rate >= 10_000,
        rate >= 20_000,
    )


def each_path(found: Mapping[str, Any]) -> Iterator[str]:
    """Requests a second and times of every way to a model."""
    yield "| path | in flight | requests/s | p50 | p99 |"
    yield "|---|---|---|---|---|"
    for one in found["figures"]:
        yield (
            f"| {one['path']} | {one['in_flight']} | {one['per_second']:,.0f} | {one['p50_ms']:.2f} ms |"
            f" {one['p99_ms']:.2f} ms |"
        )


def of_training_sets(found: dict[str, Any]) -> Iterator[Figure]:
    ours, theirs = found["ours"], found["duckdb"]
    ratio = ours["seconds"] / theirs["seconds"]
    yield Figure(
        "training set of 1,000,000 rows and 20 fields, against DuckDB's own ASOF join; peak memory",
        "2 ×; 1.5 GB",
        "1.3 ×; 0.8 GB",
        f"{ours['seconds']:.1f} s, {theirs['seconds']:.1f} s: {ratio:.2f} ×; {ours['peak_mb'] / 1000:.2f} GB",
        ratio <= 2 and ours["peak_mb"] <= 1500,
        ratio <= 1.3 and ours["peak_mb"] <= 800,
    )


def of_beyond_memory(found: dict[str, Any]) -> Iterator[Figure]:
    mapped, whole, share = found["mapped"], found["whole"], found["share"]
    aurocs = [one["metrics"]["auroc"] for one in (mapped, whole)]
    yield Figure(
        f"network on {found['rows']:,} rows, {found['bytes'] / 1e9:.1f} GB, within an eighth of that by"
        f" {found['by']}, against the same in memory: rows/s; peak memory; AUROC",
        f"0.5; {found['limit'] / 1e6:.0f} MB",
        "0.8",
        f"{mapped['rows_s']:,.0f} / {whole['rows_s']:,.0f}, {share:.2f};"
        f" {mapped['anonymous'] / 1e6:.0f} MB; {aurocs[0]:.4f}, {aurocs[1]:.4f}",
        share >= 0.5 and mapped["anonymous"] <= found["limit"],
        share >= 0.8,
    )
