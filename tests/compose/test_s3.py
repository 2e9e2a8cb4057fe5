"""Artifacts in a bucket: the stack with deploy/compose/s3.yaml, an S3 that lies outside its internal
network, and a key for each service that may do what its policy says.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from census import PIPELINE, serve

from penstock.contracts.services import PLATFORM
from penstock.testing.compose import clone_into, running_compose
from penstock.testing.s3 import IMAGE, KEY, SECRET, credentials_for, filesystem

pytestmark = [pytest.mark.compose, pytest.mark.slow]

MINIO = f"""
services:
  minio:
    image: {IMAGE}
    command: [server, /data]
    networks: [publishing]
    ports: ["127.0.0.1::9000"]
    environment: {{MINIO_ROOT_USER: {KEY}, MINIO_ROOT_PASSWORD: {SECRET}}}
"""
USE_ARTIFACTS = tuple(service for service in PLATFORM.values() if service.artifacts)
POLICY = Path("deploy", "compose", "s3", "policy.sh")


def test_a_model_comes_to_serve_out_of_a_bucket_and_the_volume_stays_empty(
    engine: None, tmp_path: Path
) -> None:
    clone = clone_into(tmp_path)
    with (clone / ".env").open("a") as settings:
        settings.write("AWS_ENDPOINT_URL=http://minio:9000\n")
    (clone / "deploy" / "compose" / "minio.yaml").write_text(MINIO)
    secrets = clone / "deploy" / "compose" / "secrets"
    secrets.mkdir(mode=0o700)
    for service in USE_ARTIFACTS:
        (secrets / f"s3_{service.name}_credentials").touch()
    with running_compose("s3", "minio", services=["minio"], root=clone) as stack:
        address = stack.compose("port", "minio", "9000").strip()
        bucket = filesystem(address)
        bucket.mkdir("penstock")
        for service in USE_ARTIFACTS:
            policy = subprocess.check_output([clone / POLICY, service.container], text=True)
            text = credentials_for(address, policy)
            (secrets / f"s3_{service.name}_credentials").write_text(text)
        stack.compose("up", "--detach", "--wait", "--no-build")
        digest = serve(stack.client).version.digest
        assert b"<html" in stack.client.audits.report(digest)
        found = set(bucket.find("penstock"))
        assert f"penstock/artifacts/packages/{PIPELINE}/{digest.removeprefix('sha256:')}.tar" in found
        assert {path.split("/")[2] for path in found} == {"training-sets", "packages", "signatures", "audits"}
        assert stack.compose("exec", "-T", "model-registry", "find", "artifacts", "-type", "f") == ""
        for service in USE_ARTIFACTS:
            own = stack.execute(service.name, "cat", "/run/secrets/s3_credentials")
            assert own == (secrets / f"s3_{service.name}_credentials").read_text()
            assert own.split()[-1] not in str(stack.inspect(service.name)), service.name
