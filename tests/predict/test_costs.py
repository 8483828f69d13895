"""What starting a forward pass costs is found from passes whose cost is known."""

from __future__ import annotations

import pytest

from baton.predict import costs
from baton.predict.costs import measure_overhead


class Machine:
    """A model whose passes take a known time on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, start: float, row: float, token: float) -> None:
        self.now, self.shapes = 0.0, []
        self._start, self._row, self._token = start, row, token
        monkeypatch.setattr(costs.time, "perf_counter", lambda: self.now)

    def forward(self, rows: int, tokens: int) -> None:
        self.shapes.append((rows, tokens))
        self.now += self._start + self._row * rows + self._token * rows * tokens


@pytest.mark.parametrize(("start", "row"), [(0.0016, 0.0), (0.0016, 0.0003), (0.016, 0.0001)])
def test_the_start_of_a_pass_is_told_from_its_rows_and_tokens(monkeypatch, start, row):
    machine = Machine(monkeypatch, start=start, row=row, token=0.0001)
    assert measure_overhead(machine.forward, 512, 16384) == round(start / 0.0001)


def test_a_pass_that_costs_hardly_anything_to_start_counts_as_one_token(monkeypatch):
    machine = Machine(monkeypatch, start=0.00001, row=0.0, token=0.0001)
    assert measure_overhead(machine.forward, 512, 16384) == 1


def test_times_that_make_no_sense_claim_nothing(monkeypatch):
    machine = Machine(monkeypatch, start=-0.0005, row=0.0, token=0.0001)  # as if others had slowed down the larger passes
    assert measure_overhead(machine.forward, 512, 16384) is None


def test_only_shapes_that_the_model_and_the_settings_allow_are_tried(monkeypatch):
    machine = Machine(monkeypatch, start=0.001, row=0.0, token=0.0001)
    measure_overhead(machine.forward, 16, 64)
    assert machine.shapes
    assert all(tokens <= 16 and rows * tokens <= 64 for rows, tokens in machine.shapes)


def test_a_slow_model_is_tried_with_few_shapes(monkeypatch):
    machine = Machine(monkeypatch, start=0.1, row=0.0, token=0.01)
    assert measure_overhead(machine.forward, 512, 16384) == 10
    assert len(set(machine.shapes)) == 3


def test_where_too_few_shapes_are_allowed_nothing_is_claimed(monkeypatch):
    machine = Machine(monkeypatch, start=0.1, row=0.0, token=0.01)
    assert measure_overhead(machine.forward, 8, 8) is None
