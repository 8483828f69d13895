"""Hyper-parameter search: the key ``training.search``, and sampling the settings of its trials.

Knows neither what the settings mean nor how trials run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from baton.config.section import ConfigSection

DRAWS_PER_TRIAL = 100
"""Maximum number of draws per trial. If they give too few different settings, the space is taken as exhausted."""

Value = Any
Candidates = tuple[Value, ...]


class Range(ConfigSection):
    """Numbers from ``low`` to ``high``, both included."""

    low: int | float = Field(description="Minimum, included.")
    high: int | float = Field(description="Maximum, included.")
    log: bool = Field(
        False,
        description="Sample uniformly on a logarithmic scale, so that every order of magnitude is equally likely. `low` must "
        "be above 0.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"with log: true, low must be above 0, not {self.low}")
        return self

    def sample(self, rng: random.Random, *, whole: bool) -> float:
        """Draw a number from the range. If ``whole``, all whole numbers are equally likely, also both ends."""
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        value = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)
        within = min(max(value, self.low), self.high)
        return round(within) if whole else within


Space = Mapping[str, Range | Candidates]


class SearchSettings(ConfigSection):
    """Trains with several settings, stops bad trials early, and publishes the best version (Ray Tune, ASHA)."""

    trials: int = Field(8, ge=1, le=1000, description="Number of settings to try. Fewer if the space has fewer.")
    concurrent: int | None = Field(
        None,
        ge=1,
        description="Maximum number of trials that run at the same time. Default: one for every two free CPUs, or one for "
        "each GPU.",
    )
    grace_epochs: int = Field(1, ge=1, description="Epochs that every trial trains before it can be stopped early.")
    space: Space = Field(
        description="Keys of `training` to search, each with a list of values or a range {low, high, log}. Example: "
        "{learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}, batch_size: [16, 32]}.",
        min_length=1,
    )

    @field_validator("space", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError("give a mapping from keys of `training` to a list of values, or to {low, high, log}")
        return {key: _candidates(str(key), given) for key, given in value.items()}


def _candidates(key: str, given: object) -> Range | Candidates:
    if isinstance(given, Range):
        return given
    if isinstance(given, list | tuple):
        if not given:
            raise ValueError(f"{key}: the list is empty; give at least one value")
        return tuple(given)
    if not isinstance(given, Mapping):
        raise ValueError(f"{key}: {given!r} is not allowed; give a list of values, or {{low, high, log}}")
    try:
        return Range.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = "".join(f"{part}: " for part in problem["loc"] if isinstance(part, str) and part not in ("int", "float"))
        message = {"extra_forbidden": "unknown key; allowed: low, high, log", "missing": "missing"}.get(
            str(problem["type"]), str(problem["msg"]).removeprefix("Value error, ")
        )
        raise ValueError(f"{key}: {field}{message}") from None


def extremes(space: Space) -> Iterator[tuple[str, Value]]:
    """Yield every listed value and both ends of every range, each with its key. If these are allowed, so is every sample."""
    for key, candidates in space.items():
        ends = (candidates.low, candidates.high) if isinstance(candidates, Range) else candidates
        yield from ((key, value) for value in ends)


def sample_settings(search: SearchSettings, whole: Collection[str], seed: int) -> list[dict[str, Value]]:
    """Return the settings of each trial, all different. The same ``seed`` gives the same settings.

    There are ``search.trials`` of them, or fewer if the space has fewer. ``whole``: keys that take only whole numbers.
    """
    rng = random.Random(seed)
    drawn: list[dict[str, Value]] = []
    for _ in range(DRAWS_PER_TRIAL * search.trials):
        if len(drawn) == search.trials:
            break
        chosen = {
            key: candidates.sample(rng, whole=key in whole) if isinstance(candidates, Range) else rng.choice(candidates)
            for key, candidates in search.space.items()
        }
        if chosen not in drawn:
            drawn.append(chosen)
    return drawn
