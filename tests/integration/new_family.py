"""Run by `test_add_a_family.py` with the page's family on the path: from a pipeline file to a package."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from family_suite import FIELDS, keeps_its_promises, parts, pipeline

from penstock.contracts.events import Artifact, TrainingSet
from penstock.contracts.load import BadPipeline, read
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.reference import reference
from penstock.modelkit.build import build
from penstock.packages.format import open_package
from penstock_trainer.packaging import package

FIELD_LINES = "".join(f"      {name}: {{type: {kind}}}\n" for name, kind in FIELDS.items())
TEXT = f"""\
version: 1
pipeline: small
entities: {{row: {{key: row_id}}}}
sources:
  rows:
    entity: row
    id: id
    timestamp: at
    fields:
{FIELD_LINES}      y: {{type: boolean}}
targets: {{y: {{from: rows.y, type: binary}}}}
model: {{type: stumps, shrinkage: 0.5}}
trainer: {{epochs: 25}}
"""


def problems(text: str) -> list[str]:
    try:
        read(text)
    except BadPipeline as error:
        return [problem.show("file") for problem in error.problems]
    return []


def write_package(folder: Path, spec: Pipeline) -> tuple[str, str]:
    """Digest and card."""
    nowhere = Artifact(uri="file:///nowhere", digest="sha256:" + "0" * 64, size=0)
    training_set = TrainingSet(
        fingerprint="sha256:" + "1" * 64,
        pipeline=spec.pipeline,
        train=nowhere,
        validation=nowhere,
        audit=nowhere,
        rows={"train": 500},
        offsets=(),
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    built = build(spec, *parts(folder))
    digest = package(folder / "package", spec, training_set, built, run_id="01A", pipeline_number=1)
    opened = open_package(folder / "package", digest)
    opened.check()
    assert opened.pipeline == spec
    return digest, opened.model_card


def main(folder: Path) -> None:
    made = {}
    for target in ("binary", "regression"):
        work = folder / target
        work.mkdir()
        spec = pipeline({"type": "stumps"}, target, trainer={"epochs": 30, "early_stopping": {"patience": 3}})
        built = keeps_its_promises(spec, work)
        made[target] = {"parity": built.parity, "metrics": built.metrics, "rounds": len(built.history)}
    digest, card = write_package(folder, read(TEXT))
    model = "model: {type: stumps, shrinkage: 0.5}\n"
    said = {
        "digest": digest,
        "card": card,
        "reference": reference(),
        "optimizer": problems(TEXT.replace("epochs: 25", "optimizer: {learning_rate: 0.1}")),
        "hidden": problems(TEXT.replace("shrinkage: 0.5", "hidden: [8]")),
        "shrinkage": problems(TEXT.replace("type: stumps, ", "type: mlp, ")),
        "misspelt": problems(TEXT.replace("shrinkage", "shrinkege").replace("type: stumps", "type: stump")),
        "scale": problems(
            TEXT.replace(model, f"{model}features: {{gap: {{from: rows.gap, scale: none}}}}\n")
        ),
        "encode": problems(
            TEXT.replace(model, f"{model}features: {{p: {{from: rows.purpose, encode: embedding}}}}\n")
        ),
        "target": problems(
            TEXT.replace("y: {type: boolean}", "y: {type: category}").replace("binary", "multiclass")
        ),
        "override": overridden(
            json.loads(read(TEXT).model_dump_json(by_alias=True)), {"model.type": "linear"}
        ).model.model_dump(exclude_unset=True),
        "torch": "torch" in sys.modules,
    }
    print(json.dumps({**made, **said}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
