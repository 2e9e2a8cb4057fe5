"""A Ray cluster whose head is killed after a run's second epoch: `ray_head.py FOLDER`. The run is this
program's, which is no node of it. Prints how it ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from workers_suite import lend, parts

from penstock.contracts.errors import Unavailable
from penstock.modelkit.build import build
from penstock.modelkit.family import Epoch
from penstock.testing.broker import free_ports
from penstock_trainer.workers.ray import RayWorkers
from penstock_trainer.workers.spread import Spread

LONG = {"epochs": 1000, "batch_size": 1, "early_stopping": None}


def main(folder: Path) -> None:
    files = parts(folder)
    home = tempfile.mkdtemp(prefix="ray-")  # a short path: Ray's sockets lie below it
    port, door = free_ports(2)
    places = [f"--port={port}", f"--ray-client-server-port={door}", f"--temp-dir={home}"]
    places += ["--min-worker-port=0", "--max-worker-port=0"]  # any: those it has may be among the others
    small = ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=80000000"]
    program = Path(sys.executable).with_name("ray")
    head = subprocess.Popen(
        [program, "start", "--head", "--block", *places, *small], start_new_session=True, stdout=sys.stderr
    )

    def on_epoch(epoch: Epoch) -> None:
        if epoch.number == 2:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()

    try:
        with closing(RayWorkers(folder, f"ray://127.0.0.1:{door}")) as workers:
            spread = Spread(workers, 2, folder / "several", lambda _: None)
            build(lend(trainer=LONG), *files, loop=spread, on_epoch=on_epoch)
    except Unavailable as error:
        print(f"{error}; checkpoint: {(folder / 'several' / 'checkpoint.pt').exists()}")
    finally:
        if head.poll() is None:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
