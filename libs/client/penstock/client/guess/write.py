"""The guess as a pipeline file whose comments say why."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from penstock.client.ages import Ages
from penstock.client.guess import names
from penstock.client.guess.codes import asked, gap_asked, misspelt_asked
from penstock.client.guess.decide import Baseline, Guess
from penstock.client.guess.fields import Field, is_an_index
from penstock.client.guess.table import Column, Table
from penstock.client.guess.targets import AS_SAID
from penstock.contracts.pipeline.sources import PUBLISHING_TIME, ROW_CONTENT

_ROW, _PUBLISHED = "row", "published_at"
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*")
_WORDS = ("true", "false", "null", "nan", "inf", "yes", "no")
_AGES = (25.0, 40.0, 60.0)
_SMALLEST_BIN = 0.05
# Bounds are judged: 1.96 from the estimate to its 95 % bound, 1.64 from it to its own 5 % quantile.
_ERRORS = 3.6
ENOUGH = 300
"""Rows from which an audit may say something."""
FAIR = 0.1
"""Default limit of a fairness gate."""


def written(guess: Guess, baseline: Baseline | None, ages: Ages, lacking: str = "") -> str:
    """Text of the pipeline file. `lacking`: why no leak was looked for."""
    table = guess.table
    share = f"all {table.rows:,}" if table.whole else f"{table.sampled:,} of {table.rows:,}"
    lines = [
        f"# A first guess from {share} rows of {_line(table.path.name)}. Read it through: a comment says why."
    ]
    lines += [f"# {said}" for said in (lacking, few(table)) if said]
    name = re.sub(r"[^a-z0-9-]+", "-", table.path.stem.lower()).strip("-") or "pipeline"
    lines += ["version: 1", f"pipeline: {(name if name[0].isalpha() else 'p-' + name)[:63].rstrip('-')}"]
    lines += [
        *_entities(guess),
        *_source(guess, training=ages.all_older),
        *_features(guess),
        *_targets(guess),
        *_split(guess),
        *_training(ages),
        *_audit(guess, baseline),
    ]
    return "\n".join(lines) + "\n"


def few(table: Table) -> str:
    """Sentence on what a table has too few rows for; empty where they are enough."""
    enough = table.rows >= ENOUGH
    return "" if enough else f"{table.rows:,} rows: an audit of fewer than some {ENOUGH} says little."


def _entities(guess: Guess) -> Iterator[str]:
    yield "entities:"
    column = guess.entity or guess.id
    why = (
        "who or what a row is about"
        if guess.entity or guess.id
        else "no column names anybody: each row its own"
    )
    yield f"  entity: {{key: {_key(column)}}}  # {why}"


def _key(column: Column | None) -> str:
    return column.field if column else _ROW


def _source(guess: Guess, *, training: bool) -> Iterator[str]:
    table, timestamp = guess.table, guess.timestamp
    yield from ("sources:", "  events:", "    entity: entity")
    yield f"    id: {_key(guess.id)}  # names the event: a repeat of it is dropped{_begins_anew(guess.id)}"
    yield f"    timestamp: {timestamp.field if timestamp else _PUBLISHED}"
    if guess.zoneless:
        yield "    timezone: UTC  # the times name no zone; is it this one?"
    if table.marks:
        yield f"    missing: [{', '.join(map(_quoted, table.marks))}]  # found in the data"
    if columns := dict(_columns(guess)):
        yield "    columns:  # of a published file; events of other programs have the names on the left"
        for field, (column, why) in columns.items():
            yield f"      {field}: {column}{f'  # {why}' if why else ''}"
    yield "    fields:"
    for one in guess.fields:
        yield f"      {_quoted(one.name)}: {_declared(one, guess, training=training)}"


def _begins_anew(column: Column | None) -> str:
    """Question of a person on an id that counts the rows of a file; empty for another."""
    if column is None or not (column.numbers_rows or column.counts_up):
        return ""
    return ". It counts rows: does the next file begin anew? Then answer `row content` where `init` asks"


def _columns(guess: Guess) -> Iterator[tuple[str, tuple[str, str]]]:
    for column in (guess.id, guess.entity, guess.timestamp):
        if column and column.name != column.field:
            yield column.field, (_in_quotes(column.name), "")
    if not guess.id:
        yield _ROW, (f'"{ROW_CONTENT}"', "no column names a row: a digest of its values does")
    if not guess.timestamp:
        able = next(
            (f"`{_line(one.name)}`" for one in guess.fields if one.kind.type == "time" and one.kind.unread),
            "",
        )
        none = f"{able} is in a form that is not read" if able else "no column says when"
        why = f"{none}: all rows of a file get the time of its publishing"
        yield _PUBLISHED, (f'"{PUBLISHING_TIME}"', why)


def _declared(one: Field, guess: Guess, *, training: bool) -> str:
    is_target = one.name == guess.target.field.name
    keys = [f"type: {one.type}"]
    if one.column.name != one.name:
        keys.append(f"from: {_in_quotes(one.column.name)}")
    if one.column.odd:
        keys.append("on_violation: set_missing")
    counts_on = is_an_index(one.column) or one.column.counts_up  # a longer file goes on beyond it
    if one.kind.range and not counts_on and (not is_target or guess.target.task == "binary"):
        keys.append(f"range: [{one.kind.range[0]:g}, {one.kind.range[1]:g}]")
    if one.kind.values:
        keys.append(f"values: [{', '.join(map(_quoted, one.kind.values))}]")
    complete = guess.table.whole and not one.column.missing and bool(one.column.values)
    required = complete and not is_target and not one.left_out  # what nobody knows yet may lack what leaks
    if required:
        keys.append("required: true")
    keys += [f"{key}: true" for key, why in (("personal", one.personal), ("protected", one.protected)) if why]
    why = [one.protected, one.personal]
    if one.type == "text" and one.input and not is_target:
        why.append("free text: `personal: true` where it may speak of a person")
    if complete and is_target:
        why.append("may be missing: a row without it can be asked for, and trains nothing")
    if odd := one.column.odd:
        example = "" if one.personal else f", as `{odd[0][:30]}`"
        why.append(f"no number in {len(odd):,} of the rows looked at{example}: missing there")
    if one.type == "number" and not is_target and not one.personal:
        why += [asked(one.column), _weighs(one, written=training)]
    if one.type == "category":
        listed = bool(one.kind.values)
        why.append(gap_asked(one.column, listed=listed, required=required))
        why.append("" if one.personal else misspelt_asked(one.column, listed=listed))
    why.append(one.doubt)
    if one.column.missing:
        why.append(f"{one.column.missing:.1%} missing")
    said = _line("; ".join(filter(None, why)))
    return f"{{{', '.join(keys)}}}{f'  # {said}' if said else ''}"


def _weighs(one: Field, *, written: bool) -> str:
    """Question of a person whether a number says how much a row counts, by its name, with the line that
    then goes at the left edge, or into a `training` that is `written` below; else empty.
    """
    if not one.input or not names.weighs_a_row(one.column.name) or min(one.column.numbers or [-1.0]) < 0:
        return ""
    key = f"sample_weight: events.{one.name}"
    line = f"`{key}` under `training`, below" if written else f"`training: {{{key}}}` at the left edge"
    return f"how much a row counts? Then {line}, and no input"


def _features(guess: Guess) -> Iterator[str]:
    """Inputs by name where one is left out, neither protected nor personal, or may have to be."""
    left = [one for one in guess.fields if one.left_out]
    if not guess.inputs() or not (left or any(one.doubt for one in guess.inputs())):
        return
    besides = ", personal, or left out below" if left else " or personal"
    yield f"features:  # all but what is protected{besides}"
    for one in guess.inputs():
        doubted = "  # doubted above: without this line it is no input" if one.doubt else ""
        yield f"  {_quoted(one.name)}: {{from: events.{one.name}}}{doubted}"
    for one in left:
        yield f"  # {one.name}: {{from: events.{one.name}}}  # left out: {_line(one.left_out)}"


def _targets(guess: Guess) -> Iterator[str]:
    target = guess.target
    one = target.field
    positive = f", positive: {_positive(target.positive, one)}" if target.positive is not None else ""
    yield "targets:"
    shown = one.column.counts.most_common(4)
    total = len(one.column.present)
    shares = ", ".join(f"{value[:30]} {count / total:.1%}" for value, count in shown)
    others = " or ".join(f"`{name}`" for name in target.close)
    asked = "" if target.why == AS_SAID else f"; is it the one{f', or {others}' if others else ''}?"
    why = target.because + asked + ("" if target.task == "regression" else f" ({shares})")
    yield f"  {_quoted(one.name)}: {{from: events.{one.name}, type: {target.task}{positive}}}  # {_line(why)}"


def _split(guess: Guess) -> Iterator[str]:
    if guess.timestamp and len(guess.timestamp.counts) > 1:
        yield "# Rows of one entity stay in one part. To audit on the newest rows:  split: {by: time}"


def _training(ages: Ages) -> Iterator[str]:
    """The age up to which rows answer, where no row of the file is young enough by default; a comment on
    it where most are not.
    """
    if not ages.said:
        return
    yield f"# {ages.said[0].upper()}{ages.said[1:]}."
    if ages.all_older:
        yield "training:"
        yield f"  max_age: {ages.enough}  # lets them answer; lower it once newer events come"
    else:
        yield f"# To let them:  training: {{max_age: {ages.enough}}}"


def _positive(value: str, one: Field) -> str:
    return value.lower() if one.type in ("boolean", "number") else _quoted(value)


def _audit(guess: Guess, baseline: Baseline | None) -> Iterator[str]:
    groups = [(one, group) for one in guess.fields if one.protected and (group := _group(one)) is not None]
    yield "audit:"
    yield "  groups:" if groups else "  groups: {}  # no column is known as protected; name those that are"
    for one, group in groups:
        yield f"    {_quoted(one.name)}: {group}"
    gates = [*_quality(baseline), *(_fair(one) for one, _ in groups if guess.target.task == "binary")]
    if gates:
        yield "  gates:"
        for gate in gates:
            yield from (f"    {line}" for line in gate)
        if groups and guess.target.task != "binary":
            yield "    # no gate compares groups but of two classes; the report shows what sets them apart"
    else:
        measure = "r2" if guess.target.task == "regression" else "accuracy"
        yield "  # Nothing here says what a model must reach: no version is judged, and none may serve."
        yield f"  # Either name it:  gates: [{{metric: {measure}, at_least: 0.8, on_fail: block}}]"
        yield "  # or allow it, at the left edge:  promotion: {without_gates: allowed}"
        yield "  gates: []"


def _group(one: Field) -> str | None:
    if one.type == "text":
        return None
    if one.type != "number":
        return "{}"
    numbers = sorted(one.column.numbers or [])
    fewest = _SMALLEST_BIN * len(numbers)
    edges = [edge for edge in _AGES if fewest <= sum(n < edge for n in numbers) <= len(numbers) - fewest]
    if not edges:
        edges = sorted({numbers[len(numbers) // 3], numbers[2 * len(numbers) // 3]})
    return f"{{bins: [{', '.join(f'{edge:g}' for edge in edges)}]}}"


def _quality(baseline: Baseline | None) -> Iterator[list[str]]:
    if baseline is None:
        return
    limit = baseline.mean - _ERRORS * baseline.error
    floor = math.floor(baseline.guessing * 100) / 100
    low = max(floor, math.floor(limit * 100) / 100)
    gate = f"- {{metric: {baseline.measure}, at_least: {low:g}, on_fail: block}}"
    origin = f"# {baseline.model}, 5 folds of {baseline.rows:,} of these rows: {baseline.mean:.3f}."
    rule = (
        f"# On the audit's rows its standard error is {baseline.error:.3f}; the gate is {_ERRORS:g} of these"
    )
    less = "# lower, so that a model as good as this one passes 19 audits of 20. Raise it as you need."
    few = f"# On the audit's rows its standard error is {baseline.error:.3f}: that may be guessing."
    above = []
    if baseline.doubted:
        left = ", ".join(f"`{name}`" for name in baseline.doubted)
        above = [f"# Without {_line(left)}, doubted above; with: {baseline.with_doubted:.3f}."]
    yield [origin, *above, *((rule, less) if limit > floor else (few,)), gate]


def _fair(one: Field) -> list[str]:
    return [
        f"# {one.protected}: a person looks where error rates may differ by more than {FAIR:g}",
        f"- {{metric: equalized_odds_difference, by: {_quoted(one.name)}, at_most: {FAIR:g},"
        " on_fail: review}",
    ]


def _quoted(text: str) -> str:
    """A text so that YAML reads it back unchanged."""
    plain = _PLAIN.fullmatch(text) and text == text.strip() and text.lower() not in _WORDS
    return text if plain else _in_quotes(text)


def _in_quotes(text: str) -> str:
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _line(text: str) -> str:
    """A text as a part of a comment."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
