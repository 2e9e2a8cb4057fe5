"""Default ports on one machine. The stack takes others only on a clash, and tells every service by
settings.
"""

from typing import Final

KAFKA: Final = 9092
DOOR: Final = 9080
"""Envoy: the one address for clients."""
SERVICES: Final[dict[str, int]] = {
    "ingest": 9181,
    "feature_store": 9182,
    "trainer": 9183,
    "model_registry": 9184,
    "ethics_audit": 9185,
    "inference": 9186,
}
TRITON_GRPC: Final = 9190
TRITON_HTTP: Final = 9191
TRITON_METRICS: Final = 9192
DOOR_ADMIN: Final = 9199
