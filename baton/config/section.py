"""The base class of all sections of `baton.yaml`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigSection(BaseModel):
    """A section of the file. Unknown keys are errors, and a loaded configuration is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
