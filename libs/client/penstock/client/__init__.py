"""The Python client and the command line."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.client.client import Penstock as Penstock
    from penstock.client.settings import ClientSettings as ClientSettings
    from penstock.contracts.errors import PenstockError as PenstockError

_MODULES = {
    "Penstock": "penstock.client.client",
    "ClientSettings": "penstock.client.settings",
    "PenstockError": "penstock.contracts.errors",
}


def __getattr__(name: str) -> object:
    """Loads what is asked for, gRPC and Kafka's client behind it: the command line comes first."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module `penstock.client` has no attribute `{name}`")
