"""How the processes of a run share their machine with serving. Imports no torch before it is told to."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from baton.config.training_settings import TrainingSettings

AUTOGROUP = Path("/proc/self/autogroup")


def settle(threads: int, training: TrainingSettings) -> None:
    """Make this process, which serves one run alone, one that trains: on so many threads, and yielding to serving."""
    import torch

    torch.set_num_threads(threads)
    yield_to_serving(training)


def yield_to_serving(training: TrainingSettings) -> None:
    """Lower this process's priority as far as ``training`` says; it is never raised.

    Where Linux weighs sessions against each other before their processes (sched(7), autogroup), that of a Ray job, which is a
    session of its own, has to yield as well.
    """
    niceness = max(training.niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    if os.getsid(0) == os.getpgrp() and AUTOGROUP.exists():  # the session of a job: a shell with jobs gives each another group
        with suppress(OSError):  # the kernel takes ten such wishes a second, and /proc may be read-only
            AUTOGROUP.write_text(str(niceness))


def threads_here(training: TrainingSettings) -> int:
    """Threads for scoring versions where a run's driver is: no more than the run may take of the cluster."""
    cpus = os.cpu_count() or 1
    return min(cpus, training.cpus or cpus)
