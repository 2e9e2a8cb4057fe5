"""`python -m penstock_inference.prepare`: what Envoy and Triton need before they start, where each
program has a container of its own.
"""

from __future__ import annotations

from penstock_inference.door.files import write_bootstrap, write_first
from penstock_inference.settings import Settings


def prepare(settings: Settings) -> None:
    """Makes what is missing, and brings what Envoy starts from up to date. Routes and clusters that
    inference keeps already stay.
    """
    settings.repository.mkdir(parents=True, exist_ok=True)
    if (settings.door.folder / "rds.json").exists():
        write_bootstrap(settings.door)
    else:
        write_first(settings.door)


if __name__ == "__main__":
    prepare(Settings())
