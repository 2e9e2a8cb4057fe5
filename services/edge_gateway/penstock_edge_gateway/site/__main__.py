"""`python -m penstock_edge_gateway.site join TOKEN`: makes this machine a site."""

from __future__ import annotations

import sys

from penstock.contracts.errors import TREATMENTS, PenstockError
from penstock.runtime.settings import Platform
from penstock_edge_gateway.site.join import join

USAGE = "usage: python -m penstock_edge_gateway.site join TOKEN"


def main(words: list[str]) -> int:
    match words:
        case ["join", token]:
            folder = Platform().home.resolve() / "site"
        case _:
            print(USAGE, file=sys.stderr)
            return 2
    try:
        identity = join(folder, token)
    except PenstockError as error:
        print(error, file=sys.stderr)
        return TREATMENTS[error.kind].exit_code
    print(f"this machine is {identity.site}, of the hub at {identity.hub}; its key lies in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
