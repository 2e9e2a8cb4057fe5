"""Feast, imported so that it is light: 4 s and 180 MB instead of 10 s and 650 MB.

Two things it would bring along are kept out: torch (it looks for it and does without), and typeguard's rewriting of Feast's own classes
at import, which costs half of the time and checks nothing of ours. Import Feast's names from here and nowhere else.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import typeguard


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _unchecked


_checked = typeguard.typechecked
_torch = sys.modules.get("torch", ...)
try:
    typeguard.typechecked = _unchecked
    if _torch is ...:
        sys.modules["torch"] = None  # type: ignore[assignment]
    warnings.filterwarnings("ignore", module=r"(feast|ibis)\..*")
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.online_stores.sqlite import SqliteOnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import RegistryConfig
    from feast.types import Bool, Float64, String, UnixTimestamp
    from feast.value_type import ValueType
finally:
    typeguard.typechecked = _checked

logging.getLogger("feast").setLevel(logging.WARNING)

__all__ = [
    "Bool",
    "Entity",
    "EntityKey",
    "FeatureStore",
    "FeatureView",
    "Field",
    "FileSource",
    "Float64",
    "RegistryConfig",
    "RepoConfig",
    "SqliteOnlineStore",
    "String",
    "UnixTimestamp",
    "Value",
    "ValueType",
    "serialize_entity_key",
]
