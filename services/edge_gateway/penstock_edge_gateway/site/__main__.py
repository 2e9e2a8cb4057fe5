"""`python -m penstock_edge_gateway.site` is the site; with `join TOKEN` this machine becomes one. With
`join -` the token is read from standard input: who lists processes or containers does not see it.
"""

from __future__ import annotations

import sys

from penstock.runtime.loading import loading

USAGE = "usage: python -m penstock_edge_gateway.site [join TOKEN|-]"


def main(words: list[str]) -> int:
    match words:
        case []:
            return _serve()
        case ["join", "-"]:
            return _join(sys.stdin.read())
        case ["join", token]:
            return _join(token)
    print(USAGE, file=sys.stderr)
    return 2


def _serve() -> int:
    with loading():
        import uvloop

        from penstock.runtime.process import start
        from penstock_edge_gateway.site.app import run
        from penstock_edge_gateway.site.settings import Settings

    start(run, Settings, uvloop.run)
    return 0


def _join(token: str) -> int:
    from penstock.contracts.errors import TREATMENTS, PenstockError
    from penstock.runtime.settings import read_or_exit
    from penstock_edge_gateway.site.join import join
    from penstock_edge_gateway.site.settings import Settings

    folder = read_or_exit(Settings).data_dir
    try:
        identity = join(folder, token)
    except PenstockError as error:
        print(error, file=sys.stderr)
        return TREATMENTS[error.kind].exit_code
    print(f"this machine is {identity.site}, of the hub at {identity.hub}; its key lies in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
