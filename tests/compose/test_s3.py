"""Artifacts in a bucket: the stack with deploy/compose/s3.yaml, and an S3 that lies outside its
internal network.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from census import PIPELINE, serve

from penstock.contracts.services import PLATFORM
from penstock.testing.compose import clone_into, running_compose
from penstock.testing.s3 import CREDENTIALS, IMAGE, KEY, SECRET, filesystem

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
USE_ARTIFACTS = tuple(service.container for service in PLATFORM.values() if service.artifacts)


def test_a_model_comes_to_serve_out_of_a_bucket_and_the_volume_stays_empty(
    engine: None, tmp_path: Path
) -> None:
    clone = clone_into(tmp_path)
    with (clone / ".env").open("a") as settings:
        settings.write("AWS_ENDPOINT_URL=http://minio:9000\n")
    (clone / "deploy" / "compose" / "minio.yaml").write_text(MINIO)
    secrets = clone / "deploy" / "compose" / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "s3_credentials").write_text(CREDENTIALS)
    with running_compose("s3", "minio", root=clone) as stack:
        bucket = filesystem(stack.compose("port", "minio", "9000").strip())
        bucket.mkdir("penstock")
        digest = serve(stack.client).version.digest
        assert b"<html" in stack.client.audits.report(digest)
        found = set(bucket.find("penstock"))
        assert f"penstock/artifacts/packages/{PIPELINE}/{digest.removeprefix('sha256:')}.tar" in found
        assert {path.split("/")[2] for path in found} == {"training-sets", "packages", "signatures", "audits"}
        assert stack.compose("exec", "-T", "model-registry", "find", "artifacts", "-type", "f") == ""
        for service in USE_ARTIFACTS:
            assert SECRET not in str(stack.inspect(service)), service
