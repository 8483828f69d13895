"""The fast dropout has the distribution of torch's dropout, and changes nothing else in a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.fit.dropout import FastDropout, use_fast_dropout


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_elements_are_zeroed_at_the_rate_and_the_rest_is_scaled(rate):
    torch.manual_seed(0)
    ones = torch.ones(1001, 333)
    dropped = FastDropout(rate)(ones)
    assert torch.unique(dropped).tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    share = (dropped == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=5 * (rate * (1 - rate) / ones.numel()) ** 0.5)


def test_draws_are_independent_of_their_neighbours():
    torch.manual_seed(1)
    zeros = FastDropout(0.3)(torch.ones(400_000)).eq(0).double()
    for distance in (1, 2, 3, 4, 8):
        pairs = (zeros[:-distance] * zeros[distance:]).mean().item()
        assert pairs == pytest.approx(0.09, abs=5 * (0.09 * 0.91 / 400_000) ** 0.5)


def test_gradients_pass_where_values_passed():
    torch.manual_seed(0)
    values = torch.randn(50, 7, requires_grad=True)
    dropped = FastDropout(0.4)(values)
    dropped.sum().backward()
    assert torch.equal(values.grad != 0, dropped != 0)
    assert values.grad[dropped != 0].unique().tolist() == pytest.approx([1 / 0.6])


def test_seeds_repeat_and_calls_differ():
    layer, ones = FastDropout(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first, second = layer(ones), layer(ones)
    torch.manual_seed(3)
    assert torch.equal(layer(ones), first)
    assert not torch.equal(first, second)


def test_low_precision_stays_low():
    assert FastDropout(0.1)(torch.ones(10, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_evaluation_changes_nothing(rate):
    values = torch.randn(100)
    assert torch.equal(FastDropout(rate).eval()(values), values)


def test_a_model_gets_it_everywhere_and_keeps_its_weights():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.5)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    use_fast_dropout(model)
    assert [(type(layer), layer.p) for layer in (model[1], model[2][0])] == [(FastDropout, 0.2), (FastDropout, 0.5)]
    assert model.state_dict().keys() == before.keys()
