"""Training the seen rows of the vocabulary gives the same model, and the same files, as training all of them."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from baton.engines.torch_engine import load_model
from training.fit.vocabulary import SeenEmbedding, train_seen_embeddings

SEEN = torch.tensor([0, 2, 5, 6])


@pytest.fixture
def whole():
    torch.manual_seed(0)
    return nn.Embedding(9, 3, padding_idx=0)


def step(embedding, ids):
    optimiser = torch.optim.AdamW(embedding.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        embedding(ids).square().sum().backward()
        optimiser.step()


def test_seen_rows_learn_as_they_do_in_the_whole_and_the_others_stay(whole):
    before = whole.weight.detach().clone()
    seen = SeenEmbedding(whole, SEEN)
    ids = torch.tensor([[2, 5, 5], [6, 0, 0]])
    step(seen, ids)
    assert torch.equal(whole.weight, before)
    step(whole, ids)
    assert torch.equal(seen.state_dict()["weight"], whole.weight)
    assert not torch.equal(whole.weight[5], before[5])
    assert torch.equal(whole.weight[0], before[0]), "padding does not learn"


def test_an_unseen_token_is_an_error_and_not_another_token(whole):
    with pytest.raises(IndexError):
        SeenEmbedding(whole, SEEN)(torch.tensor([3]))


def test_what_was_saved_is_loaded_again(whole):
    trained = SeenEmbedding(whole, SEEN)
    step(trained, torch.tensor([2, 6]))
    fresh = SeenEmbedding(nn.Embedding(9, 3, padding_idx=0), SEEN)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.weight, trained.weight)


def test_a_narrowed_model_answers_and_saves_like_the_whole_one(tiny_base, tmp_path):
    model = load_model("AutoModelForSequenceClassification", tiny_base, ["a", "b"]).eval()
    ids = torch.tensor([[2, 40, 41, 3, 0]])
    expected = model(input_ids=ids).logits
    names = dict(model.state_dict())
    parameters = model.num_parameters()
    train_seen_embeddings(model, [[0, 2, 40, 41, 3]])
    assert torch.equal(model(input_ids=ids).logits, expected)
    assert model.num_parameters() == parameters - (len(names["bert.embeddings.word_embeddings.weight"]) - 5) * 64
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).state_dict()
    assert again.keys() == names.keys()
    assert all(torch.equal(again[name], value) for name, value in names.items())


def test_an_embedding_without_a_padding_row_of_its_own_takes_the_paddings_id_like_any_other():
    torch.manual_seed(0)
    model = transformers.XLNetForSequenceClassification(
        transformers.XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=16)
    ).eval()
    ids = torch.tensor([[7, 8, 9, 5], [7, 8, 5, 5]])
    expected = model(input_ids=ids).logits
    train_seen_embeddings(model, [[5], [7, 8, 9], [7, 8]])
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_frozen_embeddings_stay_as_they_are(tiny_base):
    model = load_model("AutoModelForSequenceClassification", tiny_base, ["a", "b"])
    model.get_input_embeddings().weight.requires_grad_(False)
    train_seen_embeddings(model, [[2, 3]])
    assert type(model.get_input_embeddings()) is nn.Embedding


def test_embeddings_that_the_output_shares_stay_whole(tiny_base):
    model = transformers.AutoModelForMaskedLM.from_pretrained(tiny_base)
    train_seen_embeddings(model, [[2, 3]])
    assert type(model.get_input_embeddings()) is nn.Embedding
