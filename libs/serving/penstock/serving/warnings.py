"""Warnings beside a prediction: inputs unlike those that the version has learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from penstock.packages.parts import NumberProfile, StringProfile
from penstock.serving.model import Model
from penstock.serving.rows import FeatureValue, Row

MOST = 20
"""Warnings of one prediction: they travel with it, and into its record."""


def warnings_of(model: Model, row: Row, given: Mapping[str, FeatureValue]) -> list[str]:
    """Sentences on each input that is missing, that training has not seen, or that lies outside of
    what it saw, in the order of the inputs; at most MOST. `given`: values as they came, of which the
    row shows a mark of a missing one as nothing.
    """
    inputs = model.package.signature.inputs
    profiles = model.package.profile.features
    values = dict(zip(inputs.numbers, row.numbers, strict=True))
    texts = dict(zip(inputs.strings, row.strings, strict=True))
    return list(islice([*_numbers(values, profiles, given), *_strings(model, texts, profiles, given)], MOST))


Profiles = Mapping[str, NumberProfile | StringProfile]
Given = Mapping[str, FeatureValue]


def _numbers(values: Mapping[str, float | None], profiles: Profiles, given: Given) -> Iterator[str]:
    for name, value in values.items():
        match profiles.get(name):
            case NumberProfile() as seen if value is None:
                yield _missing(name, seen, given)
            case NumberProfile(minimum=float(low), maximum=float(high)) if value is not None:
                if not low <= value <= high:
                    yield f"`{name}` {value:g} lies outside of what training saw, {low:g} to {high:g}"


def _strings(model: Model, texts: Mapping[str, str], profiles: Profiles, given: Given) -> Iterator[str]:
    for name, text in texts.items():
        match profiles.get(name):
            case StringProfile() as seen if not text:
                yield _missing(name, seen, given)
            case StringProfile() as seen if model.types[name] != "text" and text not in seen.values:
                rare = "in fewer than 5 rows, if at all" if seen.other else "in no row"
                yield f"`{name}` `{text[:40]}`: training saw it {rare}"


def _missing(name: str, seen: NumberProfile | StringProfile, given: Given) -> str:
    share = seen.missing / max(1, seen.rows)
    mark = f" (`{said}`)" if (said := given.get(name)) else ""
    in_training = f"as in {share:.1%} of the training rows" if seen.missing else "which no training row was"
    return f"`{name}`{mark} is missing, {in_training}"
