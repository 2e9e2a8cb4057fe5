"""Profile page of a first guess: what the data are, what is suspected, what was decided. One file of
HTML that loads nothing; light and dark, down to a phone's width.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from penstock.client.guess.fields import Field
from penstock.client.guess.infer import First
from penstock.client.guess.table import Column

_BARS = 12
_WIDTH, _HEIGHT = 180, 36
_STYLE = """
:root { color-scheme: light dark;
  --ink: #1d232b; --dim: #5b6673; --line: #d9dee4; --page: #fff; --bar: #3f6fa8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --dim: #9aa5b1; --line: #343c46; --page: #14181d; --bar: #7fb0e6 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
article { border-top: 1px solid var(--line); padding: .7rem 0; display: grid; gap: .2rem 1.5rem;
  grid-template-columns: minmax(0, 1fr) 180px }
article h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere } p { margin: .2rem 0; color: var(--dim) }
svg { display: block } rect { fill: var(--bar) } strong { color: var(--ink) }
@media (max-width: 30rem) { article { grid-template-columns: minmax(0, 1fr) } }
"""


def report(found: First) -> str:
    guess, table = found.guess, found.guess.table
    name, target = escape(table.path.name), guess.target
    decided = [
        f"Target: <strong>{escape(target.field.name)}</strong>, {target.task}, {escape(target.because)}.",
        f"A row is named by {_named(guess.id, 'a digest of its values')}, is about"
        f" {_named(guess.entity or guess.id, 'itself')}, and happened at"
        f" {_named(guess.timestamp, 'its publishing')}.",
        f"Read as missing: {escape(', '.join(table.marks)) or 'empty cells alone'}.",
    ]
    if baseline := found.baseline:
        decided.append(
            f"A {baseline.model} reaches {baseline.measure} {baseline.mean:.3f}"
            f" (5 folds of {baseline.rows:,} rows)."
        )
    suspects = [one for one in guess.fields if one.left_out]
    kept = [one for one in guess.fields if not one.left_out]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{name}</title><style>{_STYLE}</style>",
            f"<h1>{name}: {table.rows:,} rows, {len(table.columns)} columns</h1>",
            *(f"<p>{line}</p>" for line in decided),
            *_fields(f"Left out ({len(suspects)})", suspects),
            *_fields("Fields", kept),
        ]
    )


def _named(column: Column | None, otherwise: str) -> str:
    return f"<strong>{escape(column.field)}</strong>" if column else otherwise


def _fields(heading: str, fields: list[Field]) -> Iterator[str]:
    if not fields:
        return
    yield f"<h2>{heading}</h2>"
    for one in fields:
        column = one.column
        marked = [f"protected ({one.protected})"] if one.protected else []
        marked += ["personal"] if one.personal else []
        said = [one.type, *marked, f"{len(column.counts):,} values", f"{column.missing:.1%} missing"]
        why = f"<p>{escape(one.left_out or one.doubt)}</p>" if one.left_out or one.doubt else ""
        yield (
            f"<article><div><h3>{escape(one.name)}</h3><p>{escape(', '.join(said))}</p>{why}"
            f"<p>{escape(_summary(one))}</p></div>{_picture(one)}</article>"
        )


def _summary(one: Field) -> str:
    column = one.column
    if one.type == "number" and column.numbers:
        low, middle, high = (
            sorted(column.numbers)[round(q * (len(column.numbers) - 1))] for q in (0, 0.5, 1)
        )
        return f"from {low:g} to {high:g}, median {middle:g}"
    if one.type == "text" or one.personal:
        return ""  # a page that travels shows nobody's own words
    return ", ".join(f"{value[:30]}: {count:,}" for value, count in column.counts.most_common(4))


def _picture(one: Field) -> str:
    counts = _histogram(one)
    if not counts:
        return ""
    wide, most = _WIDTH / len(counts), max(counts)
    bars = "".join(
        f'<rect x="{place * wide:.1f}" y="{_HEIGHT * (1 - count / most):.1f}"'
        f' width="{max(1.0, wide - 2):.1f}" height="{_HEIGHT * count / most:.1f}"/>'
        for place, count in enumerate(counts)
    )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="distribution">{bars}</svg>'


def _histogram(one: Field) -> list[int]:
    column = one.column
    if one.type == "text" or not column.present:
        return []
    if one.type != "number" or not column.numbers:
        return [count for _, count in column.counts.most_common(_BARS)]
    low, high = min(column.numbers), max(column.numbers)
    if not low < high < float("inf") or low == float("-inf"):
        return []
    counts = [0] * _BARS
    for number in column.numbers:
        counts[min(_BARS - 1, int((number - low) / (high - low) * _BARS))] += 1
    return counts
