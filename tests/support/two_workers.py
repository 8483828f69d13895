"""Run by test_worker.py in a process of its own: two forked workers train together, over gloo, one step each time.

Arguments: a JSON file with the job, the settings and, by name, what each step changes of them; the directory for the results.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from tests.fit.test_worker import one_step
from training.fit.request import WorkerConfig


def work(rank: int, order: dict, results: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{results}/meeting", rank=rank, world_size=2)
    for name, changes in order["steps"].items():
        settings = {**order["settings"], "training": {**order["settings"]["training"], **changes}}
        loss, gradients, weights = one_step(
            WorkerConfig(**order["worker_config"]), settings, results / f"{name}-{rank}", world_size=2
        )
        torch.save({"loss": loss, "gradients": gradients, "weights": weights}, results / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Forked before anything has been computed: importing everything once is most of the time that this takes.
    arguments = (json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="fork")
