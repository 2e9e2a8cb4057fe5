"""The contracts in forms that others read: JSON Schemas, AsyncAPI 3.0, the reference pages of the
pipeline file, the metrics and the measures.

`python -m penstock.contracts.export ROOT` writes them below ROOT; with `--check` it writes nothing
and fails where they differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from penstock.contracts import measures, metrics
from penstock.contracts.asyncapi import TYPES, Json, asyncapi
from penstock.contracts.durations import format_duration
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.reference import reference


def exports() -> dict[str, str]:
    """Every exported file by its path below the repository's root."""
    return {
        **{f"schemas/events/{name}.json": _text(schema) for name, schema in event_schemas().items()},
        "schemas/pipeline.json": _text(pipeline_schema()),
        "schemas/asyncapi.json": _text(asyncapi()),
        "docs/pipeline-reference.md": reference(),
        "docs/metrics.md": metrics_reference(),
        "docs/measures.md": measures_reference(),
    }


def event_schemas() -> dict[str, Json]:
    """Schemas by event class; data-plane messages too."""
    return {name: TypeAdapter(kind).json_schema() for name, kind in TYPES.items()}


def pipeline_schema() -> Json:
    """JSON Schema of the pipeline file, for editors:
    `# yaml-language-server: $schema=…/schemas/pipeline.json`.
    """
    schema = Pipeline.model_json_schema(by_alias=True, schema_generator=_Defaults)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _Defaults(GenerateJsonSchema):
    """Defaults as a file has them. A section's is the empty mapping: an editor that fills it in
    writes no key too many.
    """

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return format_duration(dft)
        return {} if isinstance(dft, BaseModel) else super().encode_default(dft)


def metrics_reference() -> str:
    """Every metric: its name in Prometheus, its labels, who reports it, what it means."""
    lines = [
        "# Metrics",
        "",
        "Generated from `penstock.contracts.metrics`; `make gen` writes it. Names are those in Prometheus,",
        "where each series also has `job` (`penstock.<service>`) and `instance` (the replica). The unit is",
        "part of the name; a histogram has `_bucket`, `_sum` and `_count`, and its buckets carry trace ids",
        "as exemplars. In OTLP the names are OpenTelemetry's: `penstock.service.ready`, without the unit.",
        "",
    ]
    for services in dict.fromkeys(metric.services for metric in metrics.CATALOGUE):
        lines += [f"## {'Every service' if services == metrics.SERVICES else ', '.join(services)}", ""]
        lines += ["| metric | kind | labels | |", "|---|---|---|---|"]
        lines += [*map(_metric_row, (one for one in metrics.CATALOGUE if one.services == services)), ""]
    return "\n".join(lines)


def _metric_row(metric: metrics.Metric) -> str:
    replicas = " Replicas tell the same: take the largest." if metric.shared else ""
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
    return f"| `{metric.prometheus}` | {metric.kind} | {labels} | {metric.about}{replicas} |"


def measures_reference() -> str:
    """Every measure: its direction and range, where a gate or the promotion may ask it, what it means."""
    lines = [
        "# Measures",
        "",
        "Generated from `penstock.contracts.measures`; `make gen` writes it. The audit computes each",
        "measure, with its interval, for the target types that are named. [Another",
        "measure](../libs/measures/README.md#add-a-measure) is one entry and one function.",
        "",
    ]
    for title, between_groups in (
        ("Over all rows, and over the rows of each group", False),
        ("Between groups", True),
    ):
        lines += [f"## {title}", ""]
        lines += ["| measure | targets | gates | promotion | better | range | it is | undefined where |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        some = (one for one in measures.MEASURES.values() if one.between_groups == between_groups)
        lines += [*map(_measure_row, some), ""]
    return "\n".join(lines)


def _measure_row(measure: measures.Measure) -> str:
    better = {True: "higher", False: "lower", None: "–"}[measure.higher_is_better]
    several = f" Several classes: {measure.several_classes}." if measure.several_classes else ""
    cells = (
        f"`{measure.name}`",
        *(", ".join(tasks) or "–" for tasks in (measure.targets, measure.gate, measure.promotion)),
        better,
        "{:g} to {:g}".format(*measure.range).replace("inf", "∞"),
        f"{measure.about}.{several}",
        measure.undefined,
    )
    return f"| {' | '.join(cells)} |"


def _text(value: Json) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    root = Path(next(argument for argument in arguments if not argument.startswith("--")))
    files = {root / name: text for name, text in exports().items()}
    return written(files, check="--check" in arguments, of=root)


def written(files: Mapping[Path, str], *, check: bool, of: Path) -> int:
    """Exit code of a generator: writes each file; with `check` only names, below `of`, those that
    are missing or differ, and fails.
    """
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if check and stale:
        names = ", ".join(str(path.relative_to(of)) for path in stale)
        sys.stderr.write(f"differ from the code: {names}\nRun: make gen\n")
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
