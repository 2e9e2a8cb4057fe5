"""Values that a pipeline file leaves open, chosen from the number of rows that a run trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue

from penstock.contracts import rules
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.pipeline.base import named

BY_ROWS = 2
"""The generation of defaults that is chosen so; before it, defaults were fixed."""


STRENGTH = 0.3
"""Strength of a constraint that names none: it halves the difference on census income for 0.013 of AUROC."""


class Plan(NamedTuple):
    """A pipeline with every choice made; the choices by dotted key: `{"trainer.epochs": 40}`; and in
    words why this family, where the file names none.
    """

    pipeline: Pipeline
    chosen: Mapping[str, JsonValue]
    because: str = ""


def planned(pipeline: Pipeline, rows: int) -> Plan:
    """Chooses for so many training rows what the file leaves open; a key that it names stays as it is,
    and so does all of a pipeline with fixed defaults.
    """
    if pipeline.defaults < BY_ROWS:
        return Plan(pipeline, {})
    said = pipeline.model_dump(exclude_unset=True, by_alias=True) | {
        section: named(getattr(pipeline, section))
        for section in ("model", "trainer")
        if section in pipeline.model_fields_set
    }
    kind, because = (pipeline.model.type, "") if "model" in said else _family(said, rows)
    typed = {**said, "model": {"type": kind, **said.get("model", {})}}
    family = Pipeline.model_validate(typed).model
    chosen = family.by_rows(rows, typed)
    if pipeline.trainer.fairness is not None:
        chosen = _beside({"trainer": {"fairness": {"strength": STRENGTH}}}, chosen)
    made = _beside(chosen, typed)
    found = Pipeline.model_validate(made)
    return Plan(found, dict(_new(made, said)), because)


def _family(said: Mapping[str, Any], rows: int) -> tuple[str, str]:
    """The first of the families for so many rows that does all that the file asks for, and why; else
    the last.
    """
    passed = ""
    for kind in families(rows):
        wrong = rules.problems(Pipeline.model_validate({**said, "model": {"type": kind}}))
        if not wrong:
            break
        keys = dict.fromkeys(".".join(map(str, problem.path)) for problem in wrong)
        passed += f"; `{kind}` would come first and does not take {', '.join(f'`{key}`' for key in keys)}"
    return kind, f"the file names no family, and there are {rows:,} rows to train on{passed}"


def families(rows: int) -> tuple[str, ...]:
    """Types of models that are taken for so many training rows where the file names none, the best
    first.
    """
    return ("boosted_trees", "mlp")


def _beside(chosen: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that were said, and of what was chosen the rest; of a section that was said to be of another
    type, nothing.
    """
    found = {**chosen, **said}
    for key, mine in chosen.items():
        if isinstance(mine, Mapping) and isinstance(theirs := said.get(key), Mapping):
            other = "type" in mine and theirs.get("type", mine["type"]) != mine["type"]
            found[key] = theirs if other else _beside(mine, theirs)
    return found


def _new(
    made: Mapping[str, Any], said: Mapping[str, Any], before: str = ""
) -> Iterator[tuple[str, JsonValue]]:
    for key, value in made.items():
        if isinstance(value, Mapping):
            inner = said.get(key)
            yield from _new(value, inner if isinstance(inner, Mapping) else {}, f"{before}{key}.")
        elif key not in said:
            yield f"{before}{key}", value
