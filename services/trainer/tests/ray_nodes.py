"""A Ray cluster of a head and two nodes with a processor each, of which one dies after the second epoch:
`ray_nodes.py FOLDER`. A program of its own, as a process knows one cluster. Prints what came of it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from workers_suite import EPOCHS, lend, parts

from penstock.modelkit.build import build
from penstock.modelkit.family import Epoch
from penstock_trainer.workers.ray import RayWorkers
from penstock_trainer.workers.spread import Spread


def main(folder: Path) -> None:
    files, said = parts(folder), []
    home = tempfile.mkdtemp(prefix="ray-")  # a short path: Ray's sockets lie below it
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # Ray writes there, too
    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": home}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    epochs: list[int] = []
    small = {"epochs": EPOCHS, "batch_size": 1, "early_stopping": None}  # the node dies before they are over
    pipeline = lend(trainer=small)

    def on_epoch(epoch: Epoch) -> None:
        epochs.append(epoch.number)
        if epoch.number == 2:
            cluster.remove_node(nodes[1], allow_graceful=False)

    try:
        with closing(RayWorkers(folder, cluster.address, placed_s=3.0)) as workers:
            spread = Spread(workers, 2, folder / "several", said.append)
            several = build(pipeline, *files, loop=spread, on_epoch=on_epoch)
    finally:
        cluster.shutdown()
        shutil.rmtree(home, ignore_errors=True)
    one = build(pipeline, *files)
    print(json.dumps({"epochs": epochs, "said": said, "several": several.metrics, "one": one.metrics}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
