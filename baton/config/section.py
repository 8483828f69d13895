"""What all parts of `baton.yaml` are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ConfigSection(BaseModel):
    """A part of the file. Unknown keys are mistakes, and a loaded configuration does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
