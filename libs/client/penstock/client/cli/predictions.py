"""predict, predictions, trace."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated

import typer

from penstock.client.cli.following import chosen
from penstock.client.cli.output import EMPTY, AsJson, show, table, when
from penstock.client.client import Penstock
from penstock.client.lineage import Lineage
from penstock.contracts.dataplane import Prediction
from penstock.contracts.digests import short_digest
from penstock.contracts.errors import Invalid, NotFound, PenstockError
from penstock.contracts.pipeline.sources import ROW_IDS
from penstock.contracts.verdicts import WAITS, worded
from penstock.contracts.versions import version_name
from penstock.inference.v1 import inference_pb2 as inference

MOST_CLASSES = 5
MOST_WARNINGS = 5


def predict(
    pipeline: str,
    entity: Annotated[
        str | None, typer.Option(help="With the features that the platform holds for it.")
    ] = None,
    fields: Annotated[
        str | None, typer.Option("--input", help='With these: {"age": 39, "job": "clerk"}')
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="No prediction: what to send from a program of one's own.")
    ] = False,
    as_json_: AsJson = False,
) -> None:
    """Predict, by entity or by fields."""
    if (entity is not None) + (fields is not None) + columns != 1:
        raise Invalid("say what to predict for", remedy="Give --entity ID or --input JSON")
    if columns:
        _columns(pipeline, as_json=as_json_)
        return
    with Penstock() as penstock:
        try:
            found = (
                penstock.predictions.by_entity(pipeline, entity)
                if entity is not None
                else penstock.predictions.by_fields(pipeline, _fields(fields or ""))
            )
        except NotFound as error:
            raise _unserved(penstock, pipeline) or _unnamed(penstock, pipeline, error) from error
    said = _probable(found.probabilities) or f"{found.value:z.4f}"
    if found.HasField("interval"):
        said += f", {found.interval.lower:z.4f} to {found.interval.upper:z.4f}"
    said = "; ".join([said, *_edges(found)])
    show(
        found,
        f"{found.decision}   ({said})" if found.decision else said,
        *_warned(found.warnings),
        f"by {version_name(pipeline, found.digest)}, generation {found.generation}."
        f"   Where from: penstock trace {found.prediction}",
        as_json=as_json_,
    )


def _columns(pipeline: str, *, as_json: bool) -> None:
    """Shows the tensors of the version that serves, and which feature each column holds."""
    with Penstock() as penstock:
        try:
            found = penstock.predictions.columns(pipeline)
        except NotFound as error:
            raise _unserved(penstock, pipeline) or error from error
    tensors = (("numbers", "FP64", found.numbers), ("strings", "BYTES", found.strings))
    said = [
        (name, datatype, f"[rows, {len(features)}]", ", ".join(features))
        for name, datatype, features in tensors
        if features
    ]
    show(
        {"pipeline": pipeline, **{name: list(features) for name, _, features in tensors}},
        table(("tensor", "datatype", "shape", "columns, in this order"), said, empty="no input"),
        as_json=as_json,
    )


def _probable(probabilities: Mapping[str, float]) -> str:
    """The most probable classes first, at most MOST_CLASSES."""
    ordered = sorted(probabilities.items(), key=lambda item: -item[1])
    shown = [f"{name} {value:.4f}" for name, value in ordered[:MOST_CLASSES]]
    if more := len(ordered) - len(shown):
        rest = sum(value for _, value in ordered[MOST_CLASSES:])
        shown.append(f"{more} other{'s' if more > 1 else ''} {rest:.4f}")
    return ", ".join(shown)


def _edges(found: inference.PredictResponse) -> list[str]:
    """Probabilities at which the decision changes, unless the likelier of two classes is decided."""
    said = []
    if found.HasField("threshold") and found.threshold != 0.5:
        said.append(f"decides {found.positive} from {found.threshold:.4f} on")
    if found.HasField("abstains"):
        whose = found.positive or "the likeliest class"
        said.append(f"abstains where {whose} has {found.abstains.lower:g} to {found.abstains.upper:g}")
    return said


def _warned(warnings: Sequence[str]) -> list[str]:
    """Warnings, MOST_WARNINGS at most: who gives three of fifty inputs is not told forty-seven times."""
    shown = [f"warning: {warning}" for warning in warnings[:MOST_WARNINGS]]
    if more := len(warnings) - len(shown):
        shown.append(f"warning: and {more} more such; --json names all")
    return shown


def _unserved(penstock: Penstock, pipeline: str) -> NotFound | None:
    """A better reason why nothing answers: the pipeline is there, and no version of it serves."""
    with suppress(PenstockError):
        of_it = [one for one in penstock.predictions.serving().pipelines if one.pipeline == pipeline]
        if any(one.digest for one in of_it):
            return None
        promoted = penstock.pipelines.get(pipeline).promoted_digest
        if not promoted:
            return _unpromoted(penstock, pipeline)
        named = version_name(pipeline, promoted)
        if why := next((one.refused_reason for one in of_it if one.refused_digest == promoted), ""):
            return NotFound(f"{named} is promoted, but not served: {why}", remedy="See penstock status")
        return NotFound(
            f"{named} is promoted, but not served yet", remedy="Try again in a moment, or see penstock status"
        )
    return None


def _unpromoted(penstock: Penstock, pipeline: str) -> NotFound:
    reviews = {one.digest: one.state for one in penstock.audits.reviews(pipeline, open_only=False)}
    waiting = next((one for one in penstock.models.list(pipeline) if WAITS in one.because), None)
    if waiting is None:
        return NotFound(
            f"{pipeline} is applied, but has no promoted version",
            remedy=f"penstock train {pipeline} --wait; why one was refused: penstock models {pipeline}",
        )
    named = version_name(pipeline, waiting.digest)
    if reviews.get(waiting.digest) == "approved":
        return NotFound(f"{named} is approved, its promotion is under way", remedy="Try again in a moment")
    return NotFound(
        f"{pipeline} has no promoted version; {named} waits for a review",
        remedy=f"See penstock review list --pipeline {pipeline}",
    )


def _unnamed(penstock: Penstock, pipeline: str, error: NotFound) -> NotFound:
    """Gives the error the form of an ID: that which publishing made, or the column that has them."""
    with suppress(PenstockError):
        spec = penstock.pipelines.spec(pipeline)
        columns = [source.columns.get(spec.key, "") for source in spec.sources.values()]
        forms = [ROW_IDS[column] for column in columns if column in ROW_IDS]
        named = [source.columns.get(spec.key, spec.key) for source in spec.sources.values()]
        remedy = (
            f"Publishing made an ID of each row, as in `{forms[0]}`, and says that of a file's first row; or"
            " ask by --input"
            if forms
            else f"An ID is a value of `{named[0]}` in what was published; or ask by --input"
        )
        return error if error.remedy else NotFound(error.message, where=error.where, remedy=remedy)
    return error


def predictions(
    pipeline: str,
    for_labelling: Annotated[
        bool, typer.Option("--for-labelling", help="Only what a person is to label.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    as_json_: AsJson = False,
) -> None:
    """Newest recorded predictions of a pipeline.

    With --json each whole, with what was asked, unless the person behind it is erased.
    """
    with Penstock() as penstock:
        newest = penstock.predictions.recorded(pipeline, for_labelling=for_labelling, limit=limit)
    columns = ["prediction", "time", "site", "decision", "confidence"]
    cells = [_row(one) for one in newest]
    if not any("confidence" in one for one in newest):  # of a site's records alone
        columns, cells = columns[:-1], [row[:-1] for row in cells]
    empty = f"no record of {pipeline}{' is marked for labelling' if for_labelling else ''}"
    show(newest, table(columns, cells, empty=empty), as_json=as_json_)


def _row(record: Prediction) -> tuple[object, ...]:
    """Cells of a record: the first row's decision, the lowest confidence of all."""
    decision = (record["decisions"] or [""])[0] if record["status"] == "OK" else record["status"]
    confidence = min(record.get("confidence") or (), default=None)
    return record["id"], record["time"], record.get("site") or "", decision, confidence


def trace(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of a prediction, a run or a version.")],
    as_json_: AsJson = False,
) -> None:
    """Follow a prediction back to its events.

    Or from a version or a run.
    """
    with Penstock() as penstock:
        found = penstock.lineage.trace(identity)
    show(found, *steps(found), as_json=as_json_)


def steps(found: Lineage) -> list[str]:
    """A line for each step back, indented where it belongs to the one above."""
    steps = [*_of_prediction(found, found.prediction)] if found.prediction else []
    steps += [
        f"  features from event {event.id} of {event.entity}, {when(event.time)}, events partition"
        f" {event.partition} offset {event.offset}"
        for event in found.events
    ]
    if found.version:
        signed = f"signed by key {found.version.keyid[:8]}, registered {when(found.version.registered_at)}"
        steps.append(f"version {version_name(found.version.pipeline, found.version.digest)}  {signed}")
    if found.audit:
        steps.append(
            f"audit {found.audit.audit_id}  {worded(found.audit.verdict, found.audit.gates)},"
            f" signed by key {found.audit.keyid[:8]}"
        )
    if review := found.review:
        by = f"{review.decided_by} (a typed name, not an identity), {when(review.decided_at)}"
        steps.append(f"  {review.state} by {by}: {review.why}")
    steps.append(
        f"run {found.run.run_id}  requested {when(found.run.requested_at)} by"
        f" {found.run.requested_by or found.run.reason}"
    )
    if choices := chosen(found.run):
        steps.append(f"  chosen {choices}")
    if found.model and (study := found.model.study):
        steps.append(
            f"  repeats trial {study.trial} of {study.trials} of study {study.study_id}, chosen by"
            f" {study.rule}, {study.looks} looks at the validation rows"
        )
    if found.model and (brought := found.model.imported):
        digest = short_digest(brought.graph.digest)
        steps.append(f"imported by {brought.by} from {brought.name}, original digest {digest}")
    if found.model:
        training = found.model.training_set
        steps.append(f"training set {training.fingerprint[:19]}  {sum(training.rows.values())} rows")
        steps += [
            f"  events {o.topic} partition {o.partition}, offsets {o.first} to {o.last - 1}"
            for o in training.offsets
        ]
    return steps


def _of_prediction(found: Lineage, p: Prediction) -> Iterator[str]:
    yield "  ".join(
        ["prediction " + p["id"], p["time"], *(p["decisions"] or [])[:1], "over " + p["protocol"]]
    )
    for line in _asked_and_answered(p):
        yield f"  {line}"
    if p["decisions"] and found.model and (threshold := found.model.metrics.get("threshold")) is not None:
        yield f"  decides for the positive class from {threshold:.4f} on"


def _asked_and_answered(record: Prediction) -> Iterator[str]:
    """Inputs and answer of the record's first row, and its warnings. Personal data: only who may read the
    predictions topic gets here.
    """
    rows = record["rows"] or 1
    if record["inputs"]:
        given = ", ".join(f"{name} {_first(values)}" for name, values in record["inputs"].items())
        yield f"inputs{f' of the first of {rows} rows' if rows > 1 else ''}: {given}"
    answered: Mapping[str, Sequence[object] | None] = {
        "probabilities": record["probabilities"],
        "value": record["values"],
        "interval": record.get("intervals"),
    }
    for name, answers in answered.items():
        if answers:
            yield f"{name}: {_first(answers)}"
    if record["undecoded"]:
        yield f"not shown: {record['undecoded']}"
    yield from _warned(record.get("warnings") or ())


def _first(values: Sequence[object]) -> str:
    match values[0] if values else None:
        case None:
            return EMPTY
        case [*numbers]:
            return ", ".join(f"{number:z.4f}" for number in numbers)
        case float() as number:
            return f"{number:g}"
        case value:
            return str(value)


def _fields(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise Invalid(
            f"--input is no JSON: {error}", remedy="""Write it as in --input '{"income": 2500}'"""
        ) from error
    if not isinstance(found, dict):
        raise Invalid(
            "--input is no object of feature names and values",
            remedy="""Write it as in --input '{"income": 2500}'""",
        )
    return found
