"""What a trial has found so far, in the form in which the registry keeps it with the roll-out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from baton.quality.trials import TrialCounts, TrialFeedback, total


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the replicas measured, and what feedback said of both versions."""

    replicas: Mapping[str, TrialCounts] = field(default_factory=dict)
    """By replica, also of those that are gone."""
    feedback: TrialFeedback = field(default_factory=TrialFeedback)

    @property
    def total(self) -> TrialCounts:
        """The sum over all replicas."""
        return total(self.replicas.values())

    def seen(self, reports: Mapping[str, TrialCounts]) -> Evidence:
        """Return the evidence with newer counts of some replicas."""
        return replace(self, replicas={**self.replicas, **reports})

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> Evidence:
        """Return what `stored` made JSON values of; nothing if there are none."""
        replicas = {
            name: TrialCounts(**{**counts, "ratios": tuple(counts["ratios"]), "examples": tuple(counts["examples"])})
            for name, counts in values.get("replicas", {}).items()
        }
        return cls(replicas=replicas, feedback=TrialFeedback(**values.get("feedback", {})))

    def stored(self) -> dict[str, Any]:
        """Return the evidence as JSON values."""
        return {
            "replicas": {
                name: {**asdict(counts), "ratios": list(counts.ratios), "examples": list(counts.examples)}
                for name, counts in self.replicas.items()
            },
            "feedback": asdict(self.feedback),
        }
