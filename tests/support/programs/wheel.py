"""The distribution as people install it: a wheel of what Git tracks, and an environment that has it and not this clone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[3]


def tracked() -> list[str]:
    """The files that Git tracks, by their paths in the clone."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def build_wheel(directory: Path) -> Path:
    """Build the wheel of the tracked files in a copy of them: setuptools would leave files in the clone."""
    source = directory / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(source)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, cwd=directory)
    [wheel] = directory.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, directory: Path) -> Path:
    """Install the wheel into a new virtual environment, which borrows the libraries of this one. Return its ``bin``.

    The libraries are on its path by a .pth file, and the .pth files beside them are not read: among those is the one by which
    this environment finds the clone.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    python = directory / "bin" / "python"
    packages = sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)})
    (Path(packages) / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = ["install", "-q", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, capture_output=True, text=True)
    ray = Path(sys.executable).with_name("ray").read_text(encoding="utf-8").partition("\n")[2]
    command = python.with_name("ray")  # `baton up` starts the one beside its Python, whose processes then have that Python
    command.write_text(f"#!{python}\n{ray}", encoding="utf-8")
    command.chmod(0o755)
    return python.parent
