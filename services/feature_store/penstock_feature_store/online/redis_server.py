"""A Redis server: its address, read from a URL; the connection to it, whose password comes from a
file that is read anew at each connect; and its own files, written anew.

No message repeats the URL, which may hold a password by mistake.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import structlog
from redis import AuthenticationError, CredentialProvider, Redis, RedisError, ResponseError
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.contracts.errors import Invalid, Unavailable

log = structlog.get_logger(__name__)

CONNECT_S = 2.0
ANSWER_S = 5.0
REWRITTEN_WITHIN_S = 120.0
POLL_S = 0.05
_BUSY = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
_REMEDY = "Write redis://host:6379/0, or rediss:// for TLS"


class Address(NamedTuple):
    """A server and one of its databases."""

    host: str
    port: int
    database: int
    tls: bool
    user: str | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def read(cls, url: str) -> Address:
        """`redis://[user@]host[:port][/database]`, `rediss://` for TLS. Raises Invalid."""
        try:
            parts = urlsplit(url)
            port, database = parts.port or 6379, int(parts.path.strip("/") or 0)
        except ValueError:
            raise Invalid(
                "the online store's URL has no valid port or database number", remedy=_REMEDY
            ) from None
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.query or parts.fragment:
            raise Invalid("the online store's URL is not that of a Redis server", remedy=_REMEDY)
        if parts.password is not None:
            raise Invalid(
                "the online store's URL holds a password",
                remedy="Put it into a file and name that in ONLINE_STORE_PASSWORD_FILE",
            )
        return cls(
            parts.hostname,
            port,
            database,
            parts.scheme == "rediss",
            unquote(parts.username) if parts.username else None,
        )


class PasswordFile(CredentialProvider):
    """A password that is changed in its file holds from the next connection on."""

    def __init__(self, path: Path, user: str | None) -> None:
        self._path = path
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = self._path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise AuthenticationError(f"its password cannot be read: {error}") from error
        return (self._user, password) if self._user else (password,)


def connect(address: Address, password_file: Path | None) -> Redis:
    """A client with its own pool, safe from any thread; it connects at its first use.

    A call is tried again once, at once: the server may have been started again since the last one.
    """
    return Redis(
        host=address.host,
        port=address.port,
        db=address.database,
        ssl=address.tls,
        socket_connect_timeout=CONNECT_S,
        socket_timeout=ANSWER_S,
        retry=Retry(NoBackoff(), 1),
        client_name="penstock-feature-store",
        driver_info=None,  # would be told by a command that the feature store's user may not give
        username=None if password_file else address.user,
        credential_provider=PasswordFile(password_file, address.user) if password_file else None,
    )


@contextmanager
def told(address: Address) -> Iterator[None]:
    """Redis's errors as Unavailable: each of them may pass without a change here."""
    try:
        yield
    except ResponseError as error:
        raise Unavailable(
            f"Redis refuses: {error}",
            where=str(address),
            remedy="See that it has memory left and is no replica",
        ) from error
    except RedisError as error:
        raise Unavailable(
            f"Redis does not answer: {error}", where=str(address), remedy="Start it, or see its log"
        ) from error


def write_anew(redis: Any, where: str) -> None:
    """Returns when no file of this server holds what is not in its memory, its log of commands and its
    snapshot among them; its replicas' files are theirs. Raises Unavailable, RedisError.

    Where the server does not let a client do that (some hosted ones do not), the files keep it
    until the server writes them by itself.
    """
    try:
        if redis.info("persistence")["aof_enabled"]:
            _write(redis, "AOF", redis.bgrewriteaof, "aof_last_bgrewrite_status", where)
        if redis.config_get("save").get("save"):
            _write(redis, "RDB", partial(redis.bgsave, schedule=False), "rdb_last_bgsave_status", where)
    except ResponseError as error:
        log.warning(
            "erased_rows_stay_in_the_files_of_redis",
            why=str(error),
            remedy="Let BGREWRITEAOF and BGSAVE run on the server",
        )


def _write(redis: Any, file: str, begin: Callable[[], object], outcome: str, where: str) -> None:
    begun, until = False, time.monotonic() + REWRITTEN_WITHIN_S
    while True:
        said = redis.info("persistence")
        if not any(said.get(name) for name in _BUSY):
            if begun:
                break
            try:
                begin()
                begun = True  # one that was under way when the rows left holds them still
            except ResponseError as error:
                if "in progress" not in str(error):
                    raise
        elif time.monotonic() > until:
            raise Unavailable(
                f"Redis has not written its {file} file anew within {REWRITTEN_WITHIN_S:.0f} s",
                where=where,
                remedy="Try again",
            )
        time.sleep(POLL_S)
    if said[outcome] != "ok":
        raise Unavailable(
            f"Redis failed to write its {file} file anew",
            where=where,
            remedy="See its log; perhaps its disk is full",
        )
