"""Builds a training set in a process of its own. What is loaded here, and not with the service, is
loaded once for all of them.
"""

from __future__ import annotations

from typing import Any

from penstock_feature_store.online.feast_import import load_join
from penstock_feature_store.training.join import Order, build

load_join()


def build_json(order: dict[str, Any]) -> dict[str, Any]:
    """Builds the set of an `Order` and returns it, both as JSON."""
    return build(Order.model_validate(order)).model_dump(mode="json")
