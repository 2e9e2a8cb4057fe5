"""Where the online store's suite runs: each adapter with its store, which can be lost, and searched
for what should have left.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis_server import RedisServer

from penstock.contracts.pipeline import Pipeline
from penstock_feature_store.online.redis import RedisOnlineStores
from penstock_feature_store.online.repository import apply
from penstock_feature_store.online.sqlite import SqliteOnlineStores
from penstock_feature_store.online.stores import OnlineStore, OnlineStores

_databases = itertools.count(1)


class OnlineWorld(ABC):
    stores: OnlineStores

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def repository(self, pipeline: Pipeline) -> Path:
        return self.folder / "feast" / pipeline.pipeline

    def apply(self, pipeline: Pipeline) -> bool:
        return apply(
            pipeline, self.repository(pipeline), self.folder / "lake" / pipeline.pipeline, self.stores
        )

    @contextmanager
    def opened(self, pipeline: Pipeline) -> Iterator[OnlineStore]:
        self.apply(pipeline)
        store = self.stores.open(self.repository(pipeline), pipeline)
        try:
            yield store
        finally:
            store.close()

    @abstractmethod
    def lose(self) -> None:
        """All rows and positions."""

    @abstractmethod
    def holds(self, text: str) -> bool:
        """Anywhere in the store's files."""


class SqliteWorld(OnlineWorld):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stores = SqliteOnlineStores()

    def lose(self) -> None:
        for path in self.folder.glob("feast/*/online.db"):
            path.write_bytes(b"no database" * 1000)

    def holds(self, text: str) -> bool:
        return any(text.encode() in path.read_bytes() for path in self.folder.glob("feast/*/online.db*"))


class RedisWorld(OnlineWorld):
    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder)
        self.server = server
        self.stores = RedisOnlineStores(server.address(next(_databases)), server.password_file)

    def lose(self) -> None:
        self.server.empty()

    def holds(self, text: str) -> bool:
        return self.server.holds(text)
