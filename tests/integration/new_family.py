"""Run by `test_add_a_family.py` with the page's family on the path: from a pipeline file to a package."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from family_suite import FIELDS, parts

from penstock.contracts.events import Artifact, TrainingSet
from penstock.contracts.load import BadPipeline, read
from penstock.contracts.overrides import overridden
from penstock.contracts.pipeline import Pipeline
from penstock.contracts.reference import reference
from penstock.modelkit.build import Built, build
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


def trained(folder: Path, spec: Pipeline) -> Built:
    """Trains as a run of the trainer does: by the loop, if any, that it has for the pipeline."""
    from penstock_trainer.settings import Settings  # the next one imports torch
    from penstock_trainer.workers.choice import spread

    with spread(spec, folder / "workers", Settings(), lambda told: None) as loop:
        return build(spec, *parts(folder), loop=loop)


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
    built = trained(folder, spec)
    digest = package(folder / "package", spec, training_set, built, run_id="01A", pipeline_number=1)
    opened = open_package(folder / "package", digest)
    opened.check()
    assert opened.pipeline == spec
    return digest, opened.model_card


def main(folder: Path) -> None:
    alone = build(read(TEXT), *parts(folder))
    torch = "torch" in sys.modules
    digest, card = write_package(folder, read(TEXT))
    model = "model: {type: stumps, shrinkage: 0.5}\n"
    said = {
        "auroc": alone.metrics["auroc"],
        "parity": alone.parity,
        "torch": torch,
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
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
