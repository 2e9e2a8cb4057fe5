"""`python -m penstock_inference.prepare`: makes what Envoy and Triton need before they start."""

from __future__ import annotations

from penstock_inference.door.files import prepare as prepare_door
from penstock_inference.settings import Settings


def prepare(settings: Settings) -> None:
    """Makes the door's first files and Triton's model repository; what is there already stays."""
    settings.repository.mkdir(parents=True, exist_ok=True)
    prepare_door(settings.door)


if __name__ == "__main__":
    prepare(Settings())
