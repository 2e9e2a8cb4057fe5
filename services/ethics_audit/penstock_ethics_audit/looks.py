"""Earlier looks at the same audit rows: how many audits had judged models by them, and by which gates.

Rows are the same by their entity and event id, whatever else was published, erased or declared anew.

Whoever sees a figure and changes the model or a gate by it makes the next figure of the same rows a
little too good, the more so the more often (C. Dwork et al., *The reusable holdout*, 2015). No verdict
changes by it; whoever relies on one should know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal

from pydantic import BaseModel, ConfigDict

from penstock.contracts.events import Artifact, GateResult

LEAST = 0.1  # share of the rows from which on an audit by them counts: by fewer, no figure moves much
MOST_CHANGES = 6  # that are said one by one
_LAXER = ("lower_bound", "estimate", "upper_bound")  # judges of `at_least`, the strictest first


class Rule(BaseModel):
    """A gate, without what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    by: str | None
    bound: Literal["at_least", "at_most"]
    limit: float
    judge: Literal["lower_bound", "upper_bound", "estimate"]
    on_fail: Literal["block", "review"]

    @property
    def subject(self) -> str:
        return f"{self.metric}{f' by {self.by}' if self.by else ''} {self.bound}"


class Asked(BaseModel):
    """Looks, one after the other, that asked for the same."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    looks: int
    rules: tuple[Rule, ...]


class Earlier(BaseModel):
    """An audit of the pipeline that had ended: its scores name the rows that it judged by."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: Artifact
    rules: tuple[Rule, ...]


class Looks(BaseModel):
    """Audits by at least `LEAST` of the same rows that had ended when this one began, oldest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: tuple[Asked, ...] = ()
    rows: int = 0  # of this audit
    fewest: int = 0  # of them that one of those audits judged by, too
    most: int = 0
    unread: int = 0  # earlier audits whose rows are not known

    @property
    def earlier(self) -> int:
        return sum(one.looks for one in self.asked)


def looked(rows: int, audits: Sequence[tuple[int, tuple[Rule, ...]]], unread: int = 0) -> Looks:
    """`audits`: of each, oldest first, how many of this audit's `rows` it judged by, and its rules."""
    looks = [(shared, rules) for shared, rules in audits if shared >= LEAST * rows]
    alike = groupby(rules for _, rules in looks)
    return Looks(
        asked=tuple(Asked(looks=len([*same]), rules=rules) for rules, same in alike),
        rows=rows,
        fewest=min((shared for shared, _ in looks), default=0),
        most=max((shared for shared, _ in looks), default=0),
        unread=unread,
    )


def words(looks: Looks, gates: Sequence[GateResult]) -> str:
    """Says the number of this look, and which of its gates were others before. Empty at the first."""
    changes = [*_changes(looks, {rule.subject: rule for rule in rules_of(gates)})]
    more = len(changes) - MOST_CHANGES
    return " ".join(
        [
            *_count(looks),
            *changes[:MOST_CHANGES],
            *([f"And {more} more such changes."] if more > 0 else []),
            *_unread(looks.unread),
        ]
    )


def _count(looks: Looks) -> Iterator[str]:
    if looks.earlier:
        before = "an audit" if looks.earlier == 1 else f"{looks.earlier:,} audits"
        fewest, most, rows = (f"{number:,}" for number in (looks.fewest, looks.most, looks.rows))
        some = fewest if fewest == most else f"{fewest} to {most}"
        them = "them" if fewest == rows else f"{some} of the {rows}"
        yield f"{_nth(looks.earlier + 1)} look at these audit rows: {before} judged models by {them} before."


def _unread(audits: int) -> Iterator[str]:
    if audits:
        yield (
            f"By which rows {'an older audit' if audits == 1 else f'{audits:,} older audits'} judged is not"
            " known any more."
        )


def rules_of(gates: Sequence[GateResult]) -> tuple[Rule, ...]:
    """Rules in an order of their own; of two on one subject the stricter is the last."""
    rules = [Rule.model_validate(gate, from_attributes=True) for gate in gates]
    return tuple(sorted(rules, key=lambda rule: (rule.subject, _strictness(rule), rule.judge, rule.on_fail)))


def _strictness(rule: Rule) -> float:
    return rule.limit if rule.bound == "at_least" else -rule.limit


def _changes(looks: Looks, now: dict[str, Rule]) -> Iterator[str]:
    """A sentence for each difference, with the looks that it was in."""
    then = [{rule.subject: rule for rule in asked.rules} for asked in looks.asked]
    for subject in dict.fromkeys([*now, *(subject for rules in then for subject in rules)]):
        ours, at = now.get(subject), 1
        seen: dict[Rule | None, list[tuple[int, int]]] = {}
        for asked, rules in zip(looks.asked, then, strict=True):
            spans = seen.setdefault(rules.get(subject), [])
            first = spans.pop()[0] if spans and spans[-1][1] == at - 1 else at
            at += asked.looks
            spans.append((first, at - 1))
        for theirs, spans in seen.items():
            if theirs != ours:
                yield from _change(theirs, ours, _when(spans))


def _change(theirs: Rule | None, ours: Rule | None, when: str) -> Iterator[str]:
    if theirs is None and ours is not None:
        yield f"{ours.subject} {ours.limit:g} was not asked {when}: tighter now."
    elif ours is None and theirs is not None:
        yield f"{theirs.subject} {theirs.limit:g} was asked {when} and is not now: looser."
    elif theirs is not None and ours is not None:
        upwards = ours.bound == "at_least"
        if theirs.limit != ours.limit:
            looser = _strictness(ours) < _strictness(theirs)
            yield _line(ours.subject, f"was {theirs.limit:g}", when, f"{ours.limit:g}", looser=looser)
        if theirs.judge != ours.judge:
            looser = (_LAXER.index(ours.judge) > _LAXER.index(theirs.judge)) == upwards
            before, now = (f"by the {judge.replace('_', ' ')}" for judge in (theirs.judge, ours.judge))
            yield _line(ours.subject, f"was judged {before}", when, now, looser=looser)
        if theirs.on_fail != ours.on_fail:
            looser, now = ours.on_fail == "review", f"`{ours.on_fail}`"
            yield _line(ours.subject, f"had `on_fail: {theirs.on_fail}`", when, now, looser=looser)


def _line(subject: str, before: str, when: str, now: str, *, looser: bool) -> str:
    return f"{subject} {before} {when}, now {now}: {'looser' if looser else 'tighter'}."


def _when(spans: Sequence[tuple[int, int]]) -> str:
    if len(spans) > 1:
        return f"in {sum(last - first + 1 for first, last in spans):,} of them"
    [(first, last)] = spans
    return f"in look {first}" if first == last else f"in looks {first} to {last}"


def _nth(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number:,}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
