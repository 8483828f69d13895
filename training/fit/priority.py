"""How the processes of a run share their machine with serving: threads and scheduling priority.

Imports torch only inside `limit_process`, so that the driver can lower its priority without it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from baton.config.training_settings import TrainingSettings

AUTOGROUP = Path("/proc/self/autogroup")
"""Linux's file with the priority of this process's session."""


def limit_process(threads: int, training: TrainingSettings) -> None:
    """Limit torch to ``threads`` threads and lower the priority. For processes that do nothing but train for one run."""
    import torch

    torch.set_num_threads(threads)
    yield_to_serving(training)


def yield_to_serving(training: TrainingSettings) -> None:
    """Lower this process's priority to ``training.niceness``. A priority that is lower already stays.

    Linux may weigh sessions against each other before it weighs their processes (sched(7), autogroup). A Ray job is a session
    of its own, so the priority of the session is lowered as well.
    """
    niceness = max(training.niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    # A job's process is in the first process group of its session. In a terminal it is not (the shell starts each job in a
    # group of its own), and the session is the user's.
    if os.getsid(0) == os.getpgrp() and AUTOGROUP.exists():
        with suppress(OSError):  # the kernel allows ten writes a second, and /proc may be read-only
            AUTOGROUP.write_text(str(niceness))


def scoring_threads(training: TrainingSettings) -> int:
    """Return the threads for scoring versions in a run's driver: the machine's CPUs, at most ``training.cpus``."""
    cpus = os.cpu_count() or 1
    return min(cpus, training.cpus or cpus)
