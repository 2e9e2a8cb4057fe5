"""Dotted keys of the pipeline file, changed for one run."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, ValidationError

from penstock.contracts import rules
from penstock.contracts.errors import Invalid
from penstock.contracts.pipeline import Pipeline

CHANGEABLE = ("features", "training", "model", "trainer", "decision")
"""What a run may change. The rest says what data mean and what is evidence: for those, apply the pipeline again."""


def overridden(spec: Mapping[str, JsonValue], overrides: Mapping[str, JsonValue]) -> Pipeline:
    """The pipeline with `{"trainer.epochs": 5}` applied. Raises Invalid that names the key."""
    changed: Any = copy.deepcopy(dict(spec))
    for key, value in overrides.items():
        steps = key.split(".")
        if steps[0] not in CHANGEABLE:
            raise Invalid(
                f"a run may not change `{key}`", where=key, remedy=f"It may change {', '.join(CHANGEABLE)}; else apply the pipeline again"
            )
        node = changed
        for step in steps[:-1]:
            node = node.setdefault(step, {})
            if not isinstance(node, dict):
                raise Invalid(f"`{step}` holds no keys", where=key)
        node[steps[-1]] = value
    try:
        pipeline = Pipeline.model_validate(changed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Invalid(f"{first['msg']}, not {first['input']!r}", where=".".join(map(str, first["loc"]))) from error
    if found := rules.problems(pipeline):
        raise Invalid(found[0].message, where=".".join(map(str, found[0].path)))
    return pipeline
