"""What the release before stored still reads, and says the same to the byte: pipelines that were
applied and a package that was signed, with keys that are refused in a file now.
"""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import select, text

from penstock.contracts.errors import Tampered
from penstock.contracts.events import Event, ModelVersionPromoted, PipelineApplied, decode
from penstock.contracts.load import BadPipeline, read
from penstock.contracts.pipeline import Linear, Pipeline, Trainer
from penstock.packages.facts import check_granted
from penstock.packages.format import PIPELINE, canonical, open_package
from penstock.packages.keys import Keys
from penstock.packages.signing import verify_package
from penstock.runtime.artifacts import Artifacts
from penstock.runtime.pipelines import AppliedPipelines
from penstock.runtime.settings import KafkaSettings
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.testing import packages as sample
from penstock.testing.history import restored
from penstock.testing.packages import NOW
from penstock.testing.threads import in_a_thread
from penstock_model_registry.app import MIGRATIONS
from penstock_model_registry.deletion import Deletions
from penstock_model_registry.lease import TopicsLease
from penstock_model_registry.packages import Packages
from penstock_model_registry.pipelines import Pipelines
from penstock_model_registry.registry import Registry
from penstock_model_registry.store import PipelineRow, PromotionRow, Tables

RELEASED = Path(__file__).parent / "released"
DIGEST = "sha256:5f1e8b89bd23fb8a3858bd4f094c31b2536a6e939d24c312db6ced24635ba369"
KEYID = "7a5ae5afb21c6019"


def applied(name: str) -> PipelineApplied:
    return PipelineApplied.model_validate_json((RELEASED / f"applied-{name}.json").read_text())


def test_an_applied_pipeline_reads() -> None:
    loans = Pipeline.model_validate(applied("loans").spec)
    assert isinstance(loans.model, Linear)
    assert loans.trainer.optimizer.type == "adamw"
    assert list(loans.resolved_features()) == ["income", "purpose"]
    assert Pipeline.model_validate(applied("prices").spec).trainer.class_weights == "balanced"


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        (
            "loans",
            [
                "sources.applications.fields.income.on_violation",
                "model.hidden",
                "model.dropout",
                "trainer.optimizer.momentum",
                "decision.threshold.on",
                "promotion.metric",
                "promotion.max_drop",
            ],
        ),
        ("prices", ["model.dropout", "trainer.class_weights", "trainer.optimizer.momentum"]),
    ],
)
def test_its_text_is_refused_where_it_is_applied_anew(name: str, refused: list[str]) -> None:
    with pytest.raises(BadPipeline) as caught:
        read(applied(name).text)
    assert [problem.key for problem in caught.value.problems] == refused


def test_a_run_of_it_trains_what_it_trained() -> None:
    from penstock.contracts.overrides import overridden

    spec = applied("loans").spec
    assert overridden(spec, {}) == Pipeline.model_validate(spec)
    assert overridden(spec, {"trainer.epochs": 9}).trainer.epochs == 9
    assert overridden(applied("prices").spec, {}).model.type == "linear"


def test_a_checkpoint_is_known_by_its_plan_as_it_was_written() -> None:
    """A run that the upgrade killed goes on: its checkpoint names this text's digest."""
    assert Trainer().model_dump_json() == (
        '{"epochs":30,"batch_size":256,"optimizer":{"type":"adamw","learning_rate":0.001,"weight_decay":0.0001,'
        '"momentum":0.9},"schedule":{"type":"cosine","warmup":0.1},"early_stopping":{"patience":5,'
        '"min_delta":0.0},"class_weights":"none","gradient_clip":null,"fairness":null}'
    )


def test_a_signed_package_opens_and_its_pipeline_is_written_as_it_was() -> None:
    package = open_package(RELEASED / "package", DIGEST)
    package.check()
    written = json.loads((RELEASED / "package" / PIPELINE).read_text())
    assert (written["model"]["hidden"], written["trainer"]["optimizer"]["momentum"]) == ([64, 32], 0.5)
    stored = Pipeline.model_validate(applied("loans").spec)
    for pipeline in (package.pipeline, stored):
        again = canonical(pipeline.model_dump(mode="json", by_alias=True))
        rule = "a key is left out while it has its default: docs/add-a-key.md"
        assert again == (RELEASED / "package" / PIPELINE).read_bytes(), rule


def test_its_signature_holds() -> None:
    trust = Keys(RELEASED).trust()
    verify_package(RELEASED / "package", RELEASED / "package.sig", trust, DIGEST, KEYID)


def published(store: Store) -> list[Event | None]:
    with in_a_thread(store.snapshot()) as session:
        rows = session.scalars(select(OutboxRow).order_by(OutboxRow.id))
        return [decode(row.event_type, row.value) for row in rows]


async def followed(keys: Keys, events: list[PipelineApplied]) -> dict[str, int]:
    """Numbers by pipeline that a service acts on after these events."""
    pipelines = AppliedPipelines("penstock.tally", keys)
    await restored(pipelines, events)
    return {one.pipeline.pipeline: one.number for one in pipelines.all}


async def test_an_applied_pipeline_is_stated_again_signed_and_followed_only_then(tmp_path: Path) -> None:
    """An upgrade: the registry's database and the topic hold what nobody signed."""
    (tmp_path / "keys").mkdir()
    shutil.copy(RELEASED / "trust.json", tmp_path / "keys")
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    store = Store.open(f"sqlite:///{tmp_path}/registry.db", Tables.metadata, migrations=MIGRATIONS)
    before = [applied("loans"), applied("prices")]
    with in_a_thread(store.transaction()) as effect:
        effect.session.add_all(map(PipelineRow.of, before))
        damaged = "INSERT INTO pipelines (name, number, text, applied) VALUES ('damaged', 1, '', '{}')"
        effect.session.execute(text(damaged))  # it holds up no other
    assert await followed(keys, before) == {}

    artifacts = Artifacts(f"file://{tmp_path}/artifacts")
    changing = TopicsLease(store, "0", lambda: NOW)
    deletions = Deletions(store, KafkaSettings(), keys, artifacts, lambda: NOW, changing)
    pipelines = Pipelines(store, KafkaSettings(), keys, deletions, lambda: NOW)
    for _ in range(2):  # the second start has nothing to state
        await store.write(pipelines.state_again)
    stated = [event for event in published(store) if isinstance(event, PipelineApplied)]
    assert [event.model_copy(update={"evidence": None}) for event in stated] == before
    assert await followed(keys, [*before, *stated]) == {"loans": 4, "prices": 1}

    keys.rotate("registry", revoke=True)
    assert await followed(keys, stated) == {}
    await store.write(pipelines.state_again)
    again = [event for event in published(store)[2:] if isinstance(event, PipelineApplied)]
    assert await followed(keys, again) == {"loans": 4, "prices": 1}
    store.close()


async def test_a_promotion_that_stands_is_stated_again_with_who_asked_for_it(tmp_path: Path) -> None:
    """The grant alone names nobody; a version of then came of no signed run."""
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    store = Store.open(f"sqlite:///{tmp_path}/registry.db", Tables.metadata, migrations=MIGRATIONS)
    version = sample.version(DIGEST, keys).model_copy(update={"run": None, "applied": None})
    known = sample.promotion(keys, version, sample.verdict(keys, DIGEST))
    before = known.model_copy(update={"statement": None})
    with in_a_thread(store.transaction()) as effect:
        effect.session.add_all([PipelineRow.of(applied("loans")), PromotionRow.of(before)])
    artifacts = Artifacts(f"file://{tmp_path}/artifacts")
    registry = Registry(store, Packages(artifacts, keys), artifacts, keys, lambda: NOW)
    for _ in range(2):  # the second start has nothing to state
        await store.write(registry.state_again)
    (stated,) = published(store)
    assert isinstance(stated, ModelVersionPromoted)
    assert stated.model_copy(update={"statement": None}) == before
    with pytest.raises(Tampered, match="is not signed"):
        check_granted(before, keys.trust())
    check_granted(stated, keys.trust())
    store.close()


def test_the_release_before_reads_what_is_written(tmp_path: Path) -> None:
    """Some of its models take no key that they do not know: they are `readers.json`, as JSON Schema.
    That a pipeline is written as it was, to the byte, is tested above.
    """
    readers = json.loads((RELEASED / "readers.json").read_text())
    keys = Keys(tmp_path / "keys")
    keys.ensure()
    digest = sample.write_package(tmp_path / "package")
    gates = (sample.AUROC_PASSED, sample.gate("fail"))
    verdict = sample.verdict(keys, digest, *gates)
    promotion = sample.promotion(keys, sample.version(digest, keys), verdict)
    written = {
        "trust": (tmp_path / "keys" / "trust.json").read_bytes(),
        "verdict": b64decode(verdict.payload),
        "waiver": b64decode(sample.waiver(keys, digest, gates[1]).payload),
        "promotion": b64decode(promotion.promotion.payload),
    } | {path.name: path.read_bytes() for path in (tmp_path / "package").glob("*.json")}
    del written[PIPELINE]
    assert written.keys() == readers.keys()
    for name, content in written.items():
        assert [
            error.message for error in Draft202012Validator(readers[name]).iter_errors(json.loads(content))
        ] == []
