"""The connection to Redis, its password from a file that is read anew at each connect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import AuthenticationError, CredentialProvider, Redis, RedisError, ResponseError
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.contracts.errors import Unavailable
from penstock_feature_store.online.redis_address import Address

CONNECT_S = 2.0
ANSWER_S = 5.0


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
    who: dict[str, Any] = {"username": address.user}
    if password_file:
        who = {"credential_provider": PasswordFile(password_file, address.user)}
    return Redis(
        host=address.host,
        port=address.port,
        db=address.database,
        ssl=address.tls,
        socket_connect_timeout=CONNECT_S,
        socket_timeout=ANSWER_S,
        retry=Retry(NoBackoff(), 1),
        client_name="penstock-feature-store",
        **who,
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
