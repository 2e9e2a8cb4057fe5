"""publish's account of a file: what became of its rows, and how publishing names them."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress

from penstock.client.ages import Ages, advice
from penstock.client.cli.output import MOST_KINDS
from penstock.client.declared import Row
from penstock.client.events import Published
from penstock.client.outcomes import Example, Outcome
from penstock.client.repeats import Changed
from penstock.contracts.dataplane import Reject
from penstock.contracts.formats import Undecodable, decoder
from penstock.contracts.pipeline import Pipeline, Source
from penstock.contracts.pipeline.sources import ROW_CONTENT, ROW_IDS

_SHOWN = 40  # characters of a value


def document(published: Published, told: Outcome, ages: Ages, differ: Changed | None) -> dict[str, object]:
    """Builds what `--json` prints."""
    return {
        "events": published.events,
        "seconds": published.seconds,
        "offsets": published.offsets,
        "records": told.records,
        "duplicates": told.duplicates,
        "rejects": told.rejects,
        "older_than_max_age": ages.older,
        "differ_from_before": differ,
        "examples": [{"row": one.row, "count": one.count, **one.reject} for one in told.examples],
    }


def said(
    published: Published,
    told: Outcome,
    spec: Pipeline,
    source: str,
    first: Sequence[Row | bytes],
    ages: Ages,
    differ: Changed | None,
) -> Iterator[str]:
    """Says it for a person. `first`: some rows from the file's beginning."""
    rate = published.events / max(published.seconds, 1e-9)
    yield f"{published.events} events on disk in {published.seconds:.1f} s ({rate:,.0f}/s)"
    of_all = told.records + told.duplicates + told.rejected
    share = f" ({told.rejected / of_all:.1%})" if told.rejected else ""
    others = f"; {told.of_others} of these events came from elsewhere meanwhile" if told.of_others else ""
    yield f"{told.records} records, {told.duplicates} duplicates, {told.rejected} rejects{share}{others}"
    for reason, count in sorted(told.rejects.items(), key=lambda item: -item[1]):
        kinds = [one for one in told.examples[:MOST_KINDS] if one.reject["reason"] == reason]
        for one in kinds:
            yield f"  {one.count} {reason}: {_example(one, spec.sources[source])}"
        if (others_of_it := count - sum(one.count for one in kinds)) > 0:
            yield f"  {others_of_it} {'other ' if kinds else ''}{reason}"
    if told.rejected:
        yield f"all of them: penstock rejects {spec.pipeline}"
    yield from _duplicates(told, spec, spec.sources[source])
    if differ:
        yield from _dropped(differ, spec.sources[source].id)
    yield from advice(ages, spec, source)
    made = spec.sources[source].columns.get(spec.key) in ROW_IDS
    taken = told.records + told.duplicates and all(one.row > 1 for one in told.examples)
    if made and taken and (row := next((row for row in first if not isinstance(row, bytes)), None)):
        yield f"ID of the file's first row, for predict and erase: {row[spec.key]}"


def _example(one: Example, source: Source) -> str:
    """Names the row, and the value of a time or a field that is neither personal nor protected."""
    name, value = one.reject["field"] or "", one.reject["value"]
    field = source.fields.get(name)
    anybodys = not (field.personal or field.protected) if field else name == source.timestamp
    shown = f": {value[:_SHOWN]}" if value and anybodys else ""
    return f"{one.reject['detail']} (row {one.row}{shown})"


def event_id(reject: Reject, source: Source | None) -> str:
    """Id of the event that was rejected, by which its row is found in the file; empty where it has none,
    or the field is personal.
    """
    if source is None or ((field := source.fields.get(source.id)) and field.personal):
        return ""
    with suppress(Undecodable):
        event = decoder(source)(b64decode(reject["original"]))
        if isinstance(event, dict) and isinstance(identity := event.get(source.id), str | int):
            return str(identity)[:_SHOWN]
    return ""


def _dropped(differ: Changed, identity: str) -> Iterator[str]:
    names = ", ".join(f"`{name}`" for name in differ.fields[:MOST_KINDS])
    yield (
        f"warning: {differ.rows} of the first {differ.of} rows differ from what came before under their"
        f" `{identity}`, as row {differ.first} in {names}: they are dropped"
    )
    yield (
        f"  where `{identity}` only counts the rows of a file, let `id` be a column that names the case, or"
        f" `columns: {{{identity}: {ROW_CONTENT}}}`"
    )


def _duplicates(told: Outcome, spec: Pipeline, source: Source) -> Iterator[str]:
    by_content = source.columns.get(source.id) == ROW_CONTENT
    if told.duplicates:
        yield (
            "a duplicate equals a row that came before, and is taken for it"
            if by_content
            else "the id of a duplicate came before: its row changes nothing, also where it differs"
        )
    if by_content and 0 < told.records < told.duplicates:
        yield "rows are told apart by content: a corrected one is a record, and its old one stays beside it"
        if source.columns.get(spec.key) == ROW_CONTENT:
            yield f"  penstock erase {spec.pipeline} ID takes the old one; publish says that of a first row"
