"""An upgrade of the whole stack from the release before, whose Kafka, Redis and PostgreSQL knew no
users and whose facts nobody signed. Its images are built from its commit.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from census import PIPELINE, Served, model_fields, serve

from penstock.client import ClientSettings, Penstock
from penstock.contracts.errors import Unavailable
from penstock.runtime.settings import KafkaSettings
from penstock.testing.compose import ROOT, SERVICES, ComposeUnderTest, clone_into, running_compose
from penstock.testing.containers import docker
from penstock.testing.journey import Journey
from penstock.testing.wait import until

pytestmark = [pytest.mark.compose, pytest.mark.slow]

BEFORE = "c7416893de1593199ae6b253bc8f6d3b050a2983"
OF_THEN, OF_NOW = f"before-{BEFORE[:8]}", os.environ.get("PENSTOCK_VERSION", "latest")  # images


def build(folder: Path, version: str) -> None:
    command = ("compose", "--file", str(folder / "docker-compose.yml"), "build", "--quiet")
    docker(*command, environment=os.environ | {"PENSTOCK_VERSION": version}, within=3600)


@pytest.fixture
def clone(engine: None, tmp_path: Path) -> Iterator[Path]:
    """An operator's clone at the release before, with its images built."""
    archive, folder = tmp_path / "before.tar", tmp_path / "clone"
    command = ["git", "-C", str(ROOT), "archive", "--output", str(archive), BEFORE]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the history of this clone does not hold the release before: git fetch --unshallow")
    with tarfile.open(archive) as found:
        found.extractall(folder, filter="data")
    build(folder, OF_THEN)
    yield folder
    docker("image", "rm", *(f"penstock/{service}:{OF_THEN}" for service in SERVICES))


@pytest.fixture
def stack(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComposeUnderTest]:
    """The release before, running, and the new release's images built."""
    build(ROOT, OF_NOW)
    monkeypatch.setenv("PENSTOCK_VERSION", OF_THEN)
    with running_compose(build=False, root=clone) as running:
        yield running


def pulled(clone: Path) -> None:
    """What `git pull` does to the files of the stack."""
    secrets = clone / "deploy" / "compose" / "secrets"
    kept = secrets.rename(clone / "kept")
    shutil.rmtree(clone / "deploy")
    clone_into(clone)
    kept.rename(secrets)


def test_what_the_release_before_held_is_there_and_goes_on(stack: ComposeUnderTest, clone: Path) -> None:
    without_password = KafkaSettings(bootstrap_servers=stack.bootstrap_servers)
    then = serve(Penstock(ClientSettings(home=stack.home, endpoint=stack.endpoint, kafka=without_password)))
    fields = model_fields(then, then.events[5])
    before = then.client.predictions.by_fields(PIPELINE, fields)
    counts = then.client.events.counts(PIPELINE, "people")

    pulled(clone)
    subprocess.run([clone / "deploy" / "compose" / "secrets.sh"], check=True, capture_output=True)
    stack.environment["PENSTOCK_VERSION"] = OF_NOW
    stack.compose("up", "--detach", "--wait", "--no-build", within=600)
    stack.ready()

    now = Served(Journey(stack.client), then.events, then.expected, then.version)
    now.journey.until_served(PIPELINE, then.version.digest)
    after = now.client.predictions.by_fields(PIPELINE, fields)
    assert (after.probabilities, after.decision, after.digest) == (
        before.probabilities,
        before.decision,
        before.digest,
    )
    person = str(then.events[5]["person_id"])
    assert now.client.predictions.by_entity(PIPELINE, person).digest == before.digest
    assert now.client.events.counts(PIPELINE, "people") == counts
    now.journey.publish(PIPELINE, "people", then.events[:100])
    again = now.client.events.counts(PIPELINE, "people")
    assert (again.records, again.duplicates) == (counts.records, counts.duplicates + 100)
    lineage = until(
        lambda: now.client.lineage.trace(before.prediction),
        despite=Unavailable,
        within=30,
        what="a prediction of the release before is found",
    )
    assert lineage.version is not None
    assert lineage.version.digest == before.digest
    version = now.journey.train(PIPELINE, {"trainer.epochs": 2})
    assert version.digest != before.digest
    assert now.client.audits.verify(version.digest).valid
    unsigned = {check.what for check in now.client.audits.verify(before.digest).checks if not check.holds}
    assert unsigned == {"pipeline signature", "training set signature", "run signature"}, "as it was then"
