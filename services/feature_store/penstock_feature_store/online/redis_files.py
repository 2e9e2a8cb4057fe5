"""Redis's own files, written anew: its log of commands and its snapshot hold what was removed until then."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from redis import ResponseError

from penstock.contracts.errors import Unavailable

log = structlog.get_logger(__name__)

WITHIN_S = 120.0
POLL_S = 0.05
_BUSY = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")


def write_anew(redis: Any, where: str) -> None:
    """Returns when no file of this server holds what is not in its memory; its replicas' files are
    theirs. Raises Unavailable, RedisError.

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
    begun, until = False, time.monotonic() + WITHIN_S
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
                f"Redis has not written its {file} file anew within {WITHIN_S:.0f} s",
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
