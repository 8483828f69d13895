"""The space of a hyper-parameter search: what ``training.search`` takes, and the settings that its trials try.

Knows neither what the settings mean nor how trials run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from baton.config.section import ConfigSection

MOST_DRAWS = 100
"""Draws per wanted trial after which a space counts as used up."""

Value = Any
Candidates = tuple[Value, ...]


class Range(ConfigSection):
    """Numbers from ``low`` to ``high``, both included."""

    low: int | float = Field(description="The least value.")
    high: int | float = Field(description="The greatest value.")
    log: bool = Field(False, description="Whether each order of magnitude is as likely as any other.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"with log: true, low must be above 0, not {self.low}")
        return self

    def sample_settings(self, source: random.Random, *, whole: bool) -> float:
        """A number of the range; a ``whole`` one as likely as its neighbours."""
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        value = math.exp(source.uniform(math.log(low), math.log(high))) if self.log else source.uniform(low, high)
        within = min(max(value, self.low), self.high)
        return round(within) if whole else within


Space = Mapping[str, Range | Candidates]


class SearchSettings(ConfigSection):
    """Trains with several settings, stops the bad ones early, and publishes the best (Ray Tune, ASHA)."""

    trials: int = Field(8, ge=1, le=1000, description="How many settings are tried; fewer where the space holds fewer.")
    concurrent: int | None = Field(
        None, ge=1, description="Trials side by side; by default one for every two free CPUs, or one for each GPU."
    )
    grace_epochs: int = Field(1, ge=1, description="Epochs that every trial may train before it can be stopped.")
    space: Space = Field(
        description="For each key of `training` a list of values, or {low, high, log}: "
        "{learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}, batch_size: [16, 32]}.",
        min_length=1,
    )

    @field_validator("space", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise ValueError("a mapping from keys of `training` to a list of values, or to {low, high, log}")
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
    """Every listed value, and both ends of every range, with its key: if these are allowed, so is what is drawn."""
    for key, candidates in space.items():
        ends = (candidates.low, candidates.high) if isinstance(candidates, Range) else candidates
        yield from ((key, value) for value in ends)


def sample_settings(search: SearchSettings, whole: Collection[str], seed: int) -> list[dict[str, Value]]:
    """The settings of each trial, all different, the same for the same ``seed``; fewer than asked for where there are fewer.

    ``whole``: the keys that take whole numbers only.
    """
    source = random.Random(seed)
    drawn: list[dict[str, Value]] = []
    for _ in range(MOST_DRAWS * search.trials):
        if len(drawn) == search.trials:
            break
        chosen = {
            key: candidates.sample_settings(source, whole=key in whole)
            if isinstance(candidates, Range)
            else source.choice(candidates)
            for key, candidates in search.space.items()
        }
        if chosen not in drawn:
            drawn.append(chosen)
    return drawn
