"""A deployment says what serves, what waits and what was refused, and the database brings it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import select, text

from penstock.contracts.errors import Conflict, Unavailable
from penstock.contracts.events import DeploymentChanged, ModelVersionPromoted
from penstock.packages.evidence import Known
from penstock.packages.format import open_package
from penstock.packages.keys import Keys
from penstock.runtime.store import Store
from penstock.runtime.tables import OutboxRow
from penstock.serving.model import Model
from penstock.testing import packages
from penstock.testing.stores import new_store
from penstock.testing.threads import in_a_thread
from penstock_inference.serving.deployment import LONGEST_BACKOFF_S, Deployment, Deployments


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = new_store(database, "penstock_inference.migrations")
    yield opened
    opened.close()


@pytest.fixture
def deployments(store: Store, keys: Keys) -> Deployments:
    return Deployments(store, keys, lambda: packages.NOW)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys"))
    made.ensure()
    return made


@pytest.fixture(scope="module")
def model(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model") / "package"
    digest = packages.write_package(folder)
    return Model(promotion_of(keys, digest, 4), open_package(folder))


def promotion_of(keys: Keys, digest: str, generation: int) -> ModelVersionPromoted:
    version = packages.version(digest, keys)
    return packages.promotion(keys, version, packages.verdict(keys, digest), generation=generation)


async def restored(store: Store, keys: Keys) -> Deployments:
    made = Deployments(store, keys, lambda: packages.NOW)
    await made.restore()
    return made


def published(store: Store) -> list[DeploymentChanged]:
    with in_a_thread(store.snapshot()) as session:
        rows = session.scalars(select(OutboxRow).order_by(OutboxRow.id))
        return [DeploymentChanged.model_validate_json(row.value) for row in rows]


async def test_what_serves_and_what_was_refused_outlive_the_process(
    store: Store, deployments: Deployments, model: Model, keys: Keys
) -> None:
    refused = promotion_of(keys, "sha256:" + "b" * 64, 5)
    await deployments.admit(model)
    await deployments.serve(model)
    await deployments.refuse(refused, "it does not rise")
    again = (await restored(store, keys)).of("loans")
    now = deployments.of("loans")
    assert (again.served, again.refused, again.layouts) == (now.served, now.refused, now.layouts)
    assert again.served is not None
    assert (again.served.generation, again.served.since) == (4, packages.NOW)
    assert again.refused is not None
    assert again.refused.reason == "it does not rise"
    assert again.known == now.known == Known(4, model.digest)
    assert (now.unverified, again.unverified) == (False, True)
    assert await deployments.promotion(again, 4) == model.promotion
    assert [(changed.serving is not None, changed.refused is not None) for changed in published(store)] == [
        (True, False),
        (True, True),
    ]


@pytest.mark.parametrize(
    "damage",
    ["UPDATE admitted SET promotion = '{' WHERE generation = 4", "UPDATE admitted SET numbers = '7'"],
)
async def test_a_damaged_row_is_left_out_and_mended_by_its_promotion(
    deployments: Deployments, store: Store, model: Model, keys: Keys, damage: str
) -> None:
    await deployments.admit(model)
    await deployments.serve(model)
    await store.write(lambda effect: effect.session.execute(text(damage)))
    again = await restored(store, keys)
    deployment = again.of(model.pipeline)
    assert (deployment.layout(4), deployment.known) == (None, None), "its promotion is admitted again"
    assert not deployment.unverified, "what nothing is known of cannot be recorded"
    assert deployment.served is not None
    await again.admit(model)
    assert (await restored(store, keys)).of(model.pipeline).known == Known(4, model.digest)


async def test_a_version_that_serves_ends_the_refusal(
    deployments: Deployments, model: Model, keys: Keys
) -> None:
    await deployments.refuse(promotion_of(keys, "sha256:" + "b" * 64, 3), "it does not answer")
    assert deployments.summary() == "refused loans@bbbbbbbb generation 3: it does not answer"
    await deployments.admit(model)
    await deployments.serve(model)
    assert deployments.of("loans").refused is None
    assert deployments.summary() == f"loans@{model.digest[7:15]} generation 4"


async def test_what_is_withdrawn_serves_no_longer(deployments: Deployments, model: Model) -> None:
    await deployments.admit(model)
    await deployments.serve(model)
    await deployments.withdraw(model.promotion, "a key was revoked")
    deployment = deployments.of("loans")
    assert deployment.served is None
    assert deployment.refused is not None
    assert deployment.refused.digest == model.digest


async def test_the_record_is_required_until_it_is_known_that_it_is_not(
    store: Store, deployments: Deployments, model: Model, keys: Keys
) -> None:
    assert deployments.record_required
    deployments.applied.complete = True
    assert not deployments.record_required
    await deployments.admit(model)
    await deployments.serve(model)
    assert not deployments.record_required
    restarted = await restored(store, keys)
    restarted.applied.complete = True
    assert restarted.record_required  # until the served version is verified again
    deployment = restarted.of("loans")
    deployment.model = model
    assert not restarted.record_required
    serving = model.package.pipeline.serving.model_copy(update={"record": "required"})
    deployment.applied = model.package.pipeline.model_copy(update={"serving": serving})
    assert restarted.record_required


async def test_the_layout_of_an_old_line_is_that_of_its_generation(
    deployments: Deployments, model: Model
) -> None:
    assert deployments.layout("loans", None) is None
    await deployments.admit(model)
    assert deployments.layout("loans", None) == model.layout  # admitted, and not served yet
    assert deployments.layout("loans", 4) == model.layout
    assert deployments.layout("loans", 3) is None
    assert deployments.layout("other", None) is None


def test_a_pipeline_that_nobody_told_of_is_not_known_yet() -> None:
    with pytest.raises(Unavailable, match="pipeline loans is not known yet"):
        _ = Deployment("loans").declared


def test_promotions_wait_once_and_are_tried_newest_first(keys: Keys) -> None:
    deployment = Deployment("loans")
    assert not deployment.is_due(0.0)
    newer, older = (promotion_of(keys, "sha256:" + "c" * 64, generation) for generation in (8, 7))
    deployment.promote(newer, "00-trace-of-the-newer-01")
    deployment.promote(older, None)
    deployment.promote(newer, "00-trace-of-a-repeat-01")
    assert deployment.is_due(0.0)
    assert deployment.traceparent == "00-trace-of-the-newer-01"
    assert deployment.take_promotions() == [older, newer]
    assert not deployment.is_due(0.0)


def test_tries_that_fail_come_later_each_time_but_a_promotion_comes_at_once(keys: Keys) -> None:
    deployment = Deployment("loans")
    promotion = promotion_of(keys, "sha256:" + "d" * 64, 1)
    deployment.promote(promotion, None)
    delays = []
    for _ in range(8):
        deployment.postpone(deployment.take_promotions(), 100.0)
        delays.append(deployment.not_before - 100.0)
        assert not deployment.is_due(100.0)
        assert deployment.is_due(deployment.not_before)
    assert delays == [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_BACKOFF_S] * 3]
    deployment.promote(promotion_of(keys, "sha256:" + "e" * 64, 2), None)
    assert deployment.is_due(100.0)


async def test_what_is_stopped_serves_no_longer_and_what_served_resumes(
    store: Store, deployments: Deployments, model: Model, keys: Keys
) -> None:
    deployment, applied = deployments.of("loans"), model.package.pipeline
    await deployments.admit(model)
    await deployments.serve(model)
    serving = applied.serving.model_copy(update={"stopped": "wrong for women"})
    deployment.applied = applied.model_copy(update={"serving": serving})
    await deployments.stop(deployment)
    assert (deployment.model, deployment.resumes) == (None, False)
    with pytest.raises(Conflict, match="loans is stopped: wrong for women"):
        deployments.verified("loans")
    assert deployments.summary() == "loans is stopped: wrong for women"
    assert published(store)[-1].serving is None
    deployment.promote(promotion_of(keys, "sha256:" + "c" * 64, 5), None)
    assert not deployment.is_due(now=1e9), "nothing is tried meanwhile"

    again = (await restored(store, keys)).of("loans")
    assert (again.served, again.resumes) == (None, False), "the file is not known yet"
    again.applied = applied
    assert again.resumes
    deployment.applied = applied
    await deployments.resume(deployment)
    assert deployment.served
    assert (deployment.served.generation, deployment.resumes) == (4, False)
    assert published(store)[-1].serving == deployment.served
    assert not (await restored(store, keys)).of("loans").held_back


async def test_what_was_refused_does_not_resume(deployments: Deployments, model: Model) -> None:
    await deployments.admit(model)
    await deployments.serve(model)
    await deployments.withdraw(model.promotion, "a key was revoked")
    deployment = deployments.of("loans")
    deployment.applied = model.package.pipeline
    assert not deployment.resumes


async def test_what_was_admitted_and_never_served_does_not_resume(
    deployments: Deployments, model: Model, keys: Keys
) -> None:
    """Its probe failed after the stop's version was admitted: the one that served answers again."""
    deployment, applied = deployments.of("loans"), model.package.pipeline
    await deployments.admit(model)
    await deployments.serve(model)
    later = replace(model, promotion=promotion_of(keys, "sha256:" + "e" * 64, 5))
    await deployments.admit(later)
    await deployments.refuse(later.promotion, "its probe failed")
    await deployments.stop(deployment)
    deployment.applied = applied
    assert deployment.resumes
    await deployments.resume(deployment)
    assert deployment.served
    assert deployment.served.generation == 4
