"""Which rows a run trains on: all new ones, old ones in the stated ratio with each label's share, the same for everybody."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.config.training_settings import TrainingSettings
from baton.tasks.classification import Classification, TextExample
from baton.tasks.ner import Ner
from baton.tasks.ner_rows import NerExample
from tests.support.tiny import keyword_rows
from training.data.replay import Selection, select, stratified_sample
from training.data.splits import split_rows

SHARES = {"billing": 120, "bug": 60, "cancel": 15}


def examples(label: str, count: int, seed: int = 1) -> list[TextExample]:
    return [TextExample(**row) for row in keyword_rows(count, [label], seed=seed)]


OLD = [row for label, count in SHARES.items() for row in examples(label, count)]
NEW = examples("shipping", 40, seed=2)


def selected(rows: Sequence[TextExample], before: Sequence[TextExample] | None = OLD, **training: object) -> Selection:
    return select(Classification, TrainingSettings(start_from="champion", **training), rows, before)


def old_of(selection: Selection) -> list[TextExample]:
    return [row for row in selection.train if row in OLD]


# --- the ratio -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replay", "per_new"), [(0.5, 0.5), (1, 1), (3, 3)])
def test_old_rows_stand_beside_new_ones_in_the_stated_ratio(replay, per_new):
    selection = selected(OLD + NEW, replay=replay)
    new = [row for row in selection.train if row in NEW]
    assert selection.new == len(new) == len(NEW) - sum(row in NEW for row in selection.validation)
    assert len(old_of(selection)) == selection.replayed == round(per_new * len(new))
    assert len(selection.train) == selection.new + selection.replayed


def test_each_label_keeps_its_share_of_the_replayed_rows():
    train, _ = split_rows(Classification, OLD + NEW, TrainingSettings().validation_share(len(OLD + NEW)))
    available = Counter(row.label for row in train if row in OLD)
    selection = selected(OLD + NEW, replay=2)
    replayed = Counter(row.label for row in old_of(selection))
    assert replayed.keys() == SHARES.keys()
    for label, count in replayed.items():
        fair = selection.replayed * available[label] / available.total()
        assert math.floor(fair) <= count <= math.ceil(fair), label


@pytest.mark.parametrize("replay", [0, 0.0])
def test_without_replay_only_new_rows_are_trained_on(replay):
    selection = selected(OLD + NEW, replay=replay)
    assert old_of(selection) == []
    assert (selection.replayed, len(selection.train)) == (0, selection.new)


@pytest.mark.parametrize("replay", [None, 1000])
def test_all_old_rows_stay_when_all_are_asked_for_or_there_are_no_more(replay):
    selection = selected(OLD + NEW, replay=replay)
    train, _ = split_rows(Classification, OLD + NEW, TrainingSettings().validation_share(len(OLD + NEW)))
    assert list(selection.train) == train
    assert selection.replayed == selection.known == len(old_of(selection))


def test_when_nothing_is_new_all_rows_are_trained_on():
    selection = selected(OLD, replay=0)
    train, _ = split_rows(Classification, OLD, TrainingSettings().validation_share(len(OLD)))
    assert list(selection.train) == train
    assert (selection.new, selection.replayed) == (0, len(train))


def test_without_a_champion_all_rows_are_new():
    selection = selected(OLD + NEW, before=None)
    assert (selection.new, selection.replayed, selection.known) == (len(selection.train), 0, 0)


# --- what is new ---------------------------------------------------------------------------------------------------------


def test_a_corrected_label_is_new_and_a_text_written_otherwise_is_not():
    corrected = OLD[0].model_copy(update={"label": "bug"})
    shouted = OLD[1].model_copy(update={"text": f"  {OLD[1].text.upper()} "})
    rows = [corrected, shouted, *OLD[2:]]
    selection = selected(rows, replay=0, validation=0.01)
    assert list(selection.train) == [corrected]


def test_an_entity_marked_anew_in_a_known_text_makes_a_row_new():
    person = {"start": 0, "end": 4, "label": "PER"}
    before = [NerExample(text=f"Anna likes Oslo {number} times.", entities=[person]) for number in range(20)]
    first = split_rows(Ner, before, 0.01)[0][0]  # not one that validation takes
    marked = NerExample(text=first.text, entities=[person, {"start": 11, "end": 15, "label": "LOC"}])
    after = [marked if row == first else row for row in before]
    selection = select(Ner, TrainingSettings(start_from="champion", replay=0, validation=0.01), after, before)
    assert list(selection.train) == [marked]


def test_validation_is_drawn_from_old_and_new_alike_whatever_is_replayed():
    _, validation = split_rows(Classification, OLD + NEW, TrainingSettings().validation_share(len(OLD + NEW)))
    for replay in (0, 3, None):
        selection = selected(OLD + NEW, replay=replay)
        assert list(selection.validation) == validation
        assert not any(row in validation for row in selection.train)
    assert {row.label for row in validation} == {*SHARES, "shipping"}


# --- the draw ------------------------------------------------------------------------------------------------------------


def test_everybody_draws_the_same_rows_and_another_seed_draws_others():
    first, again, other = (selected(OLD + NEW, replay=1, seed=seed) for seed in (0, 0, 1))
    assert list(first.train) == list(again.train)
    assert list(first.train) != list(other.train)
    assert first.replayed == other.replayed


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=60), st.data())
def test_a_draw_is_of_distinct_rows_and_fair_to_every_stratum(labels, data):
    rows = [TextExample(text=f"text {place}", label=label) for place, label in enumerate(labels)]
    wanted = data.draw(st.integers(0, len(rows)))
    drawn = stratified_sample(Classification, rows, wanted, seed=data.draw(st.integers(0, 1000)))
    assert len({row.text for row in drawn}) == len(drawn) == wanted
    counts, total = Counter(row.label for row in drawn), Counter(labels)
    for label, count in total.items():
        fair = wanted * count / len(rows)
        assert fair - 1 < counts[label] < fair + 1
