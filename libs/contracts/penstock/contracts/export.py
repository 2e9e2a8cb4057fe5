"""The contracts in forms that others read: JSON Schemas, AsyncAPI 3.0, the reference pages of the
pipeline file, the metrics and the measures.

`python -m penstock.contracts.export ROOT` writes them below ROOT; with `--check` it writes nothing
and fails where they differ.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from penstock.contracts import dataplane, measures, metrics, pipeline
from penstock.contracts.asyncapi import asyncapi
from penstock.contracts.durations import format_duration
from penstock.contracts.events import EVENTS

Json = dict[str, Any]


def exports() -> dict[str, str]:
    """Every exported file by its path below the repository's root."""
    files = {f"schemas/events/{name}.json": _text(schema) for name, schema in event_schemas().items()}
    files["schemas/pipeline.json"] = _text(pipeline_schema())
    files["schemas/asyncapi.json"] = _text(asyncapi())
    files["docs/pipeline-reference.md"] = reference()
    files["docs/metrics.md"] = metrics_reference()
    files["docs/measures.md"] = measures_reference()
    return files


def event_schemas() -> dict[str, Json]:
    """By event class; data-plane messages too."""
    control = {event.__name__: event.model_json_schema() for event in EVENTS.values()}
    data = {name: TypeAdapter(shape).json_schema() for name, shape in dataplane.SHAPES.items()}
    return control | data


def pipeline_schema() -> Json:
    """For editors: `# yaml-language-server: $schema=…/schemas/pipeline.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **pipeline.Pipeline.model_json_schema(by_alias=True),
    }


# -- the reference page ----------------------------------------------------------------------------


def reference() -> str:
    """Every key of a pipeline file: what it takes, what it is when left out, what it means."""
    lines = [
        "# The pipeline file",
        "",
        (
            "Generated from `penstock.contracts.pipeline`; `make gen` writes it. YAML 1.2: `1e-3` is a"
            " number, `no` is a word."
        ),
        (
            "An unknown key is an error with line, key and the nearest right name. Durations are a number and"
            " one of ms, s, m, h, d."
        ),
        "",
    ]
    for path, model in _sections(pipeline.Pipeline, ""):
        title = path or "The file"
        lines += [f"## `{title}`" if path else f"## {title}", ""]
        if model.__doc__ and model is not pipeline.Pipeline:
            lines += [" ".join(model.__doc__.split()), ""]
        lines += ["| key | takes | when left out | |", "|---|---|---|---|"]
        documented = _documented(model)
        for name, field in model.model_fields.items():
            default = (
                "**required**"
                if field.is_required()
                else _default(field.get_default(call_default_factory=True))
            )
            lines.append(
                f"| `{field.alias or name}` | {_takes(field.annotation)} | {default} |"
                f" {documented.get(name, '')} |"
            )
        lines.append("")
    return "\n".join(lines)


def _sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        step = f"{path}.{field.alias or name}" if path else (field.alias or name)
        for inner, suffix in _models_in(field.annotation):
            yield from _sections(inner, step + suffix)


def _models_in(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
        return
    suffix = {dict: ".<name>", tuple: "[]"}.get(get_origin(annotation), "")
    for part in get_args(annotation):
        for model, deeper in _models_in(part):
            yield model, suffix + deeper


def _takes(annotation: Any) -> str:
    if any(_models_in(annotation)):
        return {dict: "names to mappings", tuple: "a list of mappings"}.get(
            get_origin(annotation), "a mapping"
        )
    if values := list(_literals(annotation)):
        return " \\| ".join(f"`{value}`" for value in values)
    text = str(annotation)
    for part, said in _WORDS:
        if part in text:
            return said
    return "text"


_WORDS = (
    ("timedelta", "a duration"),
    ("tuple[float, float]", "[low, high]"),
    ("tuple[str | float, str | float]", "[low, high], numbers or percentiles like `p01`"),
    ("tuple[str, ...]", "a list of texts"),
    ("tuple[float, ...]", "a list of numbers"),
    ("tuple[", "a list of numbers"),
    ("bool | int", "a value"),
    ("bool", "`true` \\| `false`"),
    ("int", "a whole number"),
    ("float", "a number"),
)


def _literals(annotation: Any) -> Iterator[object]:
    for part in get_args(annotation):
        if isinstance(part, str | int) and not isinstance(part, bool):
            yield part
        elif get_origin(annotation) is not tuple and get_origin(annotation) is not dict:
            yield from _literals(part)


def _default(value: object) -> str:
    if value is None or value is PydanticUndefined or value in ({}, ()):
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, timedelta):
        return f"`{format_duration(value)}`"
    return f"`{json.dumps(value)}`".replace('"', "")


def _documented(model: type[BaseModel]) -> dict[str, str]:
    """The texts under the fields, read from the source: pydantic keeps them where asked to."""
    tree = ast.parse(inspect.getsource(model))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, following in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            assert isinstance(statement.target, ast.Name)
            found[statement.target.id] = " ".join(str(following.value.value).split()).replace("|", "\\|")
    return found


def metrics_reference() -> str:
    """Every metric: its name in Prometheus, its labels, who reports it, what it means."""
    lines = [
        "# Metrics",
        "",
        (
            "Generated from `penstock.contracts.metrics`; `make gen` writes it. Names are Prometheus'; there"
            " each series also has `job`"
        ),
        (
            "(`penstock.<service>`) and `instance` (the replica). Units stand in the names; a histogram has"
            " `_bucket`, `_sum` and `_count`,"
        ),
        (
            "and its buckets carry trace ids as exemplars. In OTLP the names are OpenTelemetry's:"
            " `penstock.service.ready`, unit and all."
        ),
        "",
    ]
    told: dict[tuple[str, ...], list[metrics.Metric]] = {}
    for metric in metrics.CATALOGUE:
        told.setdefault(metric.services, []).append(metric)
    for services, some in told.items():
        lines += [f"## {'Every service' if services == metrics.SERVICES else ', '.join(services)}", ""]
        lines += ["| metric | kind | labels | |", "|---|---|---|---|"]
        for metric in some:
            replicas = " Replicas tell the same: take the largest." if metric.shared else ""
            labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
            lines.append(
                f"| `{metric.prometheus}` | {'histogram' if metric.buckets else metric.kind} | {labels} |"
                f" {metric.about}{replicas} |"
            )
        lines.append("")
    return "\n".join(lines)


def measures_reference() -> str:
    """Every measure: its direction and range, where a gate or the promotion may ask it, what it means."""
    lines = [
        "# Measures",
        "",
        (
            "Generated from `penstock.contracts.measures`; `make gen` writes it. The audit computes each"
            " measure, with its interval,"
        ),
        "for the target types that are named.",
        "",
    ]
    for title, between_groups in (
        ("Over all rows, and over the rows of each group", False),
        ("Between groups", True),
    ):
        lines += [f"## {title}", ""]
        lines += ["| measure | targets | gates | promotion | better | range | it is | undefined where |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [_measure_row(m) for m in measures.MEASURES.values() if m.between_groups == between_groups]
        lines.append("")
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
    return written(
        {root / name: text for name, text in exports().items()}, check="--check" in arguments, of=root
    )


def written(files: Mapping[Path, str], *, check: bool, of: Path) -> int:
    """Exit code of a generator: writes each file; with `check` only names, below `of`, those that
    are missing or differ, and fails.
    """
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if check and stale:
        sys.stderr.write(
            "differ from the code: "
            + ", ".join(str(path.relative_to(of)) for path in stale)
            + "\nRun: make gen\n"
        )
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
