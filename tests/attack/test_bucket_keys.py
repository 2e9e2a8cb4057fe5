"""A service that is taken over does with its key to the bucket what its own work needs, and nothing
else: with the policies that deploy/compose/s3/policy.sh prints.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from penstock.contracts.errors import NotFound, Unavailable
from penstock.contracts.events import Artifact
from penstock.contracts.services import PLATFORM
from penstock.runtime.artifacts import Artifacts
from penstock.testing.checkout import ROOT
from penstock.testing.s3 import S3, credentials_for

pytestmark = pytest.mark.docker

SERVICES = [name for name, row in PLATFORM.items() if row.artifacts]
FOLDERS = sorted({folder for row in PLATFORM.values() for folder in row.artifacts})


@pytest.fixture(scope="module")
def stored(s3: S3) -> dict[str, Artifact]:
    """By folder, a file in each, put there with all rights."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3.environment.items():
            environment.setenv(name, value)
        artifacts = Artifacts(f"s3://{s3.bucket()}/artifacts")
        return {folder: artifacts.put_bytes(f"{folder}/there", b"rows") for folder in FOLDERS}


@pytest.mark.parametrize("service", SERVICES)
def test_its_key_opens_what_its_work_needs(
    s3: S3, stored: dict[str, Artifact], service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = PLATFORM[service]
    root = stored[FOLDERS[0]].uri.removesuffix(f"/{FOLDERS[0]}/there")
    policy = subprocess.run(
        [ROOT / "deploy" / "compose" / "s3" / "policy.sh", row.container, root],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    credentials = tmp_path / "credentials"
    credentials.write_text(credentials_for(s3.container.address, policy))
    for name, value in (s3.environment | {"AWS_SHARED_CREDENTIALS_FILE": str(credentials)}).items():
        monkeypatch.setenv(name, value)
    artifacts, rights = Artifacts(root), ["read", "write", "delete"]  # each with those before it
    for folder in FOLDERS:
        right = row.artifacts.get(folder)
        may = rights[: rights.index(right) + 1] if right else []
        attempts = {
            "read": lambda folder=folder: artifacts.read(stored[folder]),
            "write": lambda folder=folder: artifacts.put_bytes(f"{folder}/new", b"x"),
            "delete": lambda folder=folder, may=may: artifacts.delete(
                f"{folder}/{'new' if 'delete' in may else 'there'}"
            ),
        }
        for what, attempt in attempts.items():
            if what in may:
                attempt()
            else:
                with pytest.raises(Unavailable, match="the artifact store refuses"):
                    attempt()
        if may:
            gone = stored[folder].model_copy(update={"uri": artifacts.uri(f"{folder}/never-was")})
            with pytest.raises(NotFound):
                artifacts.read(gone)
