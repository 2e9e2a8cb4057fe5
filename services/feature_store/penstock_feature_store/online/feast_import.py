"""Feast, imported so that it is light: 3 s and 160 MB instead of 10 s and 650 MB.

Four things it would bring along are kept out: torch, and its source of MLflow's data sets (it looks
for them and does without); its own HTTP servers, which are not started here; and typeguard's
rewriting of Feast's classes at import, which takes half of the time and checks nothing of ours.
Import Feast's names from here and nowhere else.
"""

from __future__ import annotations

import logging
import sys
import warnings
from types import ModuleType
from typing import Any

import typeguard


def _unchecked(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _unchecked


_checked = typeguard.typechecked
_KEPT_OUT: dict[str, ModuleType | None] = {
    "torch": None,
    "feast.feature_server": ModuleType("feast.feature_server"),
    "feast.ui_server": ModuleType("feast.ui_server"),
    "feast.infra.data_sources.mlflow": None,
}
for _name, _module in _KEPT_OUT.items():
    sys.modules.setdefault(_name, _module)  # type: ignore[arg-type]  # None: an import that fails
try:
    typeguard.typechecked = _unchecked
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.online_stores.helpers import _mmh3, _redis_key, _redis_key_prefix
    from feast.infra.online_stores.sqlite import SqliteOnlineStore
    from feast.infra.provider import get_provider
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import RegistryConfig
    from feast.types import Bool, Bytes, Float64, String
    from feast.value_type import ValueType
finally:
    typeguard.typechecked = _checked
    if sys.modules.get("torch") is None:  # it is kept from Feast alone
        del sys.modules["torch"]

warnings.filterwarnings(
    "ignore", module=r"(feast|ibis)\..*"
)  # after the import: Feast puts its own filters first
logging.getLogger("feast").setLevel(logging.WARNING)

__all__ = [
    "Bool",
    "Bytes",
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
    "Value",
    "ValueType",
    "_mmh3",
    "_redis_key",
    "_redis_key_prefix",
    "get_provider",
    "serialize_entity_key",
]
