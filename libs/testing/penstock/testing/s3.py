"""A real S3 for the tests: MinIO in a container, which a test may stop and kill."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.testing import containers
from penstock.testing.containers import Container

if TYPE_CHECKING:
    from s3fs import S3FileSystem

IMAGE = "minio/minio:latest"
KEY = "penstock"
SECRET = "only-for-tests"
CREDENTIALS = f"[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"


class S3:
    """A server. `environment` tells a process of it, and with which keys it may be used."""

    def __init__(self, container: Container, folder: Path) -> None:
        self.container = container
        credentials = folder / "credentials"
        credentials.write_text(CREDENTIALS)
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": f"http://{container.address}",
            "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        filesystem(self.container.address).mkdir(name)
        return name


def filesystem(address: str) -> S3FileSystem:
    """Opens the server at host:port with all rights."""
    from s3fs import S3FileSystem  # half a second of every worker, were it imported above

    return S3FileSystem(
        endpoint_url=f"http://{address}",
        key=KEY,
        secret=SECRET,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def credentials_for(address: str, policy: str) -> str:
    """A credentials file with a key of the server at host:port that may do what `policy` says and no
    more, for an hour.
    """

    from aiobotocore.session import AioSession

    async def ask() -> Mapping[str, str]:
        account = {"aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        client = AioSession().create_client("sts", endpoint_url=f"http://{address}", **account)
        async with client as sts:
            role = {"RoleArn": "arn:aws:iam::000000000000:role/any", "RoleSessionName": "penstock"}
            made: Mapping[str, str] = (await sts.assume_role(**role, Policy=policy))["Credentials"]
            return made

    key = asyncio.run(ask())
    return (
        f"[default]\naws_access_key_id = {key['AccessKeyId']}\n"
        f"aws_secret_access_key = {key['SecretAccessKey']}\naws_session_token = {key['SessionToken']}\n"
    )


@contextmanager
def running_s3(folder: Path) -> Iterator[S3]:
    """A server until the block or this process ends; its credentials file lies in `folder`. Raises
    CannotRun.
    """
    with containers.run(
        IMAGE,
        port=9000,
        ready=containers.answers_at("/minio/health/ready"),
        environment={"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET},
        command=["server", "/data"],
    ) as container:
        yield S3(container, folder)
