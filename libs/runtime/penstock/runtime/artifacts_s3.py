"""Artifacts in S3 or what speaks like it, by s3fs: the extra `s3`, imported when the first URI asks for it.

Where it is and who asks come from the AWS variables: AWS_ENDPOINT_URL, AWS_SHARED_CREDENTIALS_FILE,
AWS_DEFAULT_REGION. Each call is bounded: a server that is away or silent is told within a minute,
or as long as an upload may take.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.contracts.errors import Invalid, Tampered, Unavailable

CONNECT_S = 3.0
ANSWER_S = 20.0
ATTEMPTS = 2
PART_BYTES = 16 << 20  # a file of twice this size goes in parts, two at a time: so much memory at most
# Slowest upload that is waited for. Nothing else bounds one: the client waits without end for a server
# that takes the connection and no bytes.
SLOWEST_BYTES_S = 256 << 10


class S3ArtifactStore:
    """An object appears when all of it is there, also one that came in parts: the store's own promise."""

    def __init__(self) -> None:
        """Connects to nothing. Raises Invalid without the extra."""
        try:
            from aiobotocore.session import AioSession
            from aiohttp import ClientError as HttpError
            from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
            from botocore.handlers import add_expect_header
            from s3fs import S3FileSystem
        except ModuleNotFoundError as error:
            raise Invalid(
                "artifacts in S3 need s3fs",
                where="PENSTOCK_ARTIFACTS",
                remedy="pip install 'penstock-runtime[s3]'",
            ) from error

        def filesystem(**options: Any) -> Any:
            session = AioSession()
            session.unregister(
                "before-call.s3", add_expect_header
            )  # aiohttp waits without end for `100 Continue`
            return S3FileSystem(session=session, **options)

        self._filesystem = filesystem
        self._errors = (OSError, BotoCoreError, ClientError, HttpError)
        self._refusals = (PermissionError, NoCredentialsError)
        self._connected: tuple[int, Any] | None = None

    def put(self, path: Path, uri: str) -> None:
        with self._told(uri, writes=True):
            within = ATTEMPTS * ANSWER_S + path.stat().st_size / SLOWEST_BYTES_S
            self._s3.put_file(str(path), _path(uri), chunksize=PART_BYTES, max_concurrency=2, timeout=within)

    def get(self, uri: str, to: Path, most: int | None = None) -> None:
        with self._told(uri):
            if most is not None and self._s3.info(_path(uri))["size"] > most:
                raise Tampered(f"it has more than the {most} bytes expected", where=uri)
            self._s3.get_file(
                _path(uri), str(to), max_concurrency=1
            )  # one stream: more would hold parts in memory

    def delete(self, uri: str) -> None:
        """Deletes one by one: s3fs asks for many at once and does not look at what the store refused."""
        with self._told(uri, writes=True):
            for path in self._s3.find(_path(uri)):
                self._s3.rm_file(path)

    @property
    def _s3(self) -> Any:
        """A filesystem for this process: s3fs has a thread with an event loop, which a fork leaves behind."""
        if self._connected is None or self._connected[0] != os.getpid():
            made = self._filesystem(
                config_kwargs={
                    "connect_timeout": CONNECT_S,
                    "read_timeout": ANSWER_S,
                    "retries": {"mode": "standard", "total_max_attempts": ATTEMPTS},
                },
                use_listings_cache=False,
                skip_instance_cache=True,
            )
            made.retries = 1  # the client's own attempts are enough
            self._connected = os.getpid(), made
        return self._connected[1]

    @contextmanager
    def _told(self, uri: str, *, writes: bool = False) -> Iterator[None]:
        """Raises s3fs's errors, not all of them an OSError, as Unavailable; FileNotFoundError where a
        reader's object is gone.
        """
        try:
            yield
        except self._errors as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if code == "NoSuchBucket":
                said = f"there is no bucket `{_path(uri).partition('/')[0]}`"
                remedy = "Create it, or correct PENSTOCK_ARTIFACTS"
            elif isinstance(error, FileNotFoundError) and not writes:
                raise
            elif isinstance(error, self._refusals):
                said = f"the artifact store refuses: {error}"
                remedy = "See what AWS_SHARED_CREDENTIALS_FILE names, and what it may do"
            else:
                said = f"the artifact store does not answer: {error}"
                remedy = "Start it, or correct AWS_ENDPOINT_URL"
            raise Unavailable(said, where=uri, remedy=remedy) from error


def _path(uri: str) -> str:
    return uri.removeprefix("s3://")
