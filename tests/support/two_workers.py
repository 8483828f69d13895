"""Two forked workers that train one step together, over gloo. test_worker.py runs this module in a separate process.

Arguments: a JSON file with the worker's configuration, the settings and the changes of the settings for each step, by name; the
directory for the results.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from tests.fit.test_worker import one_step
from training.fit.request import WorkerConfig


def work(rank: int, inputs: dict, results: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{results}/meeting", rank=rank, world_size=2)
    for name, changes in inputs["steps"].items():
        settings = {**inputs["settings"], "training": {**inputs["settings"]["training"], **changes}}
        loss, gradients, weights = one_step(
            WorkerConfig(**inputs["worker_config"]), settings, results / f"{name}-{rank}", world_size=2
        )
        torch.save({"loss": loss, "gradients": gradients, "weights": weights}, results / f"{name}-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Forked before anything is computed, so that the slow imports happen only once.
    arguments = (json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="fork")
