"""Checks Python, the libraries against the ranges that Baton declares, and the GPU."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from baton.config.file import BatonConfig
from baton.installation import DISTRIBUTION
from baton.wording import counted
from services.host.checks.finding import Finding, ok, problem, warning

GPU_SECONDS = 20.0
"""Maximum time to ask torch for GPUs, which loads all of it."""

DEVICES = "/dev"
"""Where the driver of NVIDIA's GPUs shows them."""


def libraries() -> Iterator[Finding]:
    """Compare the version of Python and of every library with what Baton declares."""
    yield ok(f"Python {platform.python_version()} at {sys.executable}")
    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield warning(f"{DISTRIBUTION} is not installed: its libraries cannot be compared", "install it: `pip install -e .`")
        return
    checked = 0
    for requirement in map(Requirement, declared):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        checked += 1
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield problem(f"{requirement.name} is not installed", f"`pip install '{_plain(requirement)}'`")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            text = f"{requirement.name} {installed} is installed, and Baton needs {requirement.specifier}"
            yield problem(text, f"`pip install '{_plain(requirement)}'`")
    yield ok(f"{checked} libraries were compared with the versions that Baton declares")


def _plain(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def gpu(config: BatonConfig) -> Iterator[Finding]:
    """Ask for GPUs if the machine has one or a model wants one."""
    wanting = [model.name for model in config.models if model.serving.gpus > 0 or model.serving.device == "gpu"]
    there = any(Path(DEVICES).glob("nvidia[0-9]*"))
    if not there and not wanting:
        yield ok("no GPU, and no model asks for one")
        return
    code = "import torch; print(torch.cuda.device_count(), torch.version.cuda)"
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GPU_SECONDS)
    except subprocess.TimeoutExpired:
        yield warning(f"torch did not say within {GPU_SECONDS:.0f} s which GPUs there are", "look at nvidia-smi")
        return
    count, _, cuda = done.stdout.strip().partition(" ")
    if count.isdigit() and int(count) > 0:
        yield ok(f"{counted(int(count), 'GPU')}, CUDA {cuda}")
    elif wanting:
        why = f"torch is built for {'CPUs only' if cuda in ('None', '') else f'CUDA {cuda}'}"
        text = f"{', '.join(wanting)} asks for a GPU, and torch sees none ({why})"
        yield problem(text, "install the driver, and a torch for it")
    else:
        yield warning("the machine has a GPU that torch does not see", "install a torch that is built for its CUDA, to use it")
