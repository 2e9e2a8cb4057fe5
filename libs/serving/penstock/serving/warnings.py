"""Warnings beside a prediction: inputs unlike those that the version has learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from penstock.packages.parts import NumberProfile, StringProfile
from penstock.serving.model import Model
from penstock.serving.rows import FeatureValue, Row

MOST = 20
"""Warnings of one prediction, and inputs named in one: they travel with it, and into its record."""
FEW = 3  # missing inputs that get a sentence each


def warnings_of(model: Model, row: Row, given: Mapping[str, FeatureValue]) -> list[str]:
    """Sentences on inputs: first on each that training has not seen, or that lies outside of what it
    saw, in the order of the inputs and at most MOST together with those on missing ones. `given`:
    values as they came, of which the row shows a mark of a missing one as nothing.
    """
    inputs = model.package.signature.inputs
    values = dict(zip(inputs.numbers, row.numbers, strict=True))
    texts = dict(zip(inputs.strings, row.strings, strict=True))
    profiles = model.package.profile.features
    missing = _missing(
        [name for name, value in (values | texts).items() if value in (None, "")], model, given
    )
    wrong = [*_undeclared(model, values), *_numbers(values, profiles), *_strings(model, texts, profiles)]
    return [*wrong[: MOST - len(missing)], *missing]


Profiles = Mapping[str, NumberProfile | StringProfile]


def _undeclared(model: Model, values: Mapping[str, float | None]) -> Iterator[str]:
    """A sentence on each number that no event of its source may have."""
    for name, value in values.items():
        declared = model.package.pipeline.field(model.references[name])
        if value is not None and declared.range is not None:
            low, high = declared.range
            if not low <= value <= high:
                rejected = declared.on_violation == "reject"
                became = "reject such an event" if rejected else "read it as missing"
                yield f"`{name}` {value:g} breaks its range, {low:g} to {high:g}: ingest would {became}"


def _numbers(values: Mapping[str, float | None], profiles: Profiles) -> Iterator[str]:
    for name, value in values.items():
        match profiles.get(name):
            case NumberProfile(minimum=float(low), maximum=float(high)) if value is not None:
                if not low <= value <= high:
                    yield f"`{name}` {value:g} lies outside of what training saw, {low:g} to {high:g}"


def _strings(model: Model, texts: Mapping[str, str], profiles: Profiles) -> Iterator[str]:
    for name, text in texts.items():
        match profiles.get(name):
            case StringProfile() as seen if text and model.types[name] != "text" and text not in seen.values:
                rare = "in fewer than 5 rows, if at all" if seen.other else "in no row"
                yield f"`{name}` `{text[:40]}`: training saw it {rare}"


def _missing(names: list[str], model: Model, given: Mapping[str, FeatureValue]) -> list[str]:
    """A sentence each of a few inputs, one of many: who gives three of fifty is told once."""
    marked = {name: f"`{name}`" + (f" (`{said}`)" if (said := given.get(name)) else "") for name in names}
    profiles = model.package.profile.features
    if len(names) <= FEW:
        return [f"{marked[name]} is missing, {_in_training(profiles[name])}" for name in names]
    listed = ", ".join(list(marked.values())[:MOST])
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    never = sum(not profiles[name].missing for name in names)
    unseen = f"; training always had {never} of these" if never else ""
    return [f"{len(names)} of {len(model.types)} inputs are missing: {listed}{more}{unseen}"]


def _in_training(seen: NumberProfile | StringProfile) -> str:
    share = seen.missing / max(1, seen.rows)
    return f"as in {share:.1%} of the training rows" if seen.missing else "which no training row was"
