"""What the page asks a classifier."""

import itertools

import pytest
import torch

from hf_effattn.demo import answers
from tests.demo.making import BY_TYPE, loaded


def test_an_answer_has_the_model_s_probabilities():
    found = loaded("simpletron", num_labels=3, id2label={0: "low", 1: "middle", 2: "high"})
    answer = answers.classify(found, "[PAD] a text")
    ids = torch.tensor([[1, *(4 + byte for byte in b"[PAD] a text")]])
    with torch.no_grad():
        shares = found.model(ids).logits[0].softmax(-1)
    assert answer.kind == "one" and answer.tokens == 13 and answer.left_out == 0
    assert [label for label, _ in answer.shares] == [found.model.config.id2label[int(i)] for i in (-shares).argsort()]
    assert [share for _, share in answer.shares] == pytest.approx(sorted(shares.tolist(), reverse=True))


@pytest.mark.parametrize(
    ("options", "kind", "shares"),
    [
        ({"problem_type": "multi_label_classification"}, "any", torch.sigmoid),
        ({"num_labels": 1, "problem_type": "regression"}, "number", lambda logits: logits),
        ({"num_labels": 1}, "number", lambda logits: logits),
    ],
)
def test_labels_that_exclude_nothing_and_numbers_are_shown_as_what_they_are(options, kind, shares):
    found = loaded("simpletron", **options)
    answer = answers.classify(found, "abc")
    with torch.no_grad():
        expected = shares(found.model(torch.tensor([[1, 101, 102, 103]])).logits[0])
    assert answer.kind == kind
    assert sorted(share for _, share in answer.shares) == pytest.approx(sorted(expected.tolist()))


def test_a_text_beyond_the_positions_is_cut_only_if_asked():
    found = loaded("luna")
    with pytest.raises(
        ValueError, match=r"has 101 tokens, which are bytes here, and luna reads at most 80: .*Cut texts"
    ):
        answers.encode(found, "x" * 100)
    inputs, read, left_out = answers.encode(found, "x" * 100, cut=True)
    assert (inputs["input_ids"].shape, read, left_out) == ((1, 80), 80, 21)
    assert answers.classify(found, "x" * 100, cut=True).shares == answers.classify(found, "x" * 79).shares
    with pytest.raises(ValueError, match="there is no text yet"):
        answers.classify(found, " \n")


def test_a_model_of_pairs_asks_for_both_texts():
    found = loaded("simpletron", pair_features="concat")
    with pytest.raises(ValueError, match="compares two texts"):
        answers.classify(found, "a")
    inputs, read, _ = answers.encode(found, "a", "bc")
    assert {name: ids.tolist() for name, ids in inputs.items() if "ids" in name} == {
        "input_ids": [[1, 101]],
        "pair_input_ids": [[1, 102, 103]],
    }
    assert read == 5 and answers.classify(found, "a", "bc").shares != answers.classify(found, "a", "b").shares


@pytest.mark.parametrize("model_type", BY_TYPE)
def test_the_measures_of_every_family_have_a_meaning(model_type):
    found = loaded(model_type)
    inputs, _, _ = answers.encode(found, "a text")
    if model_type == "vanilla_transformer":
        with pytest.raises(ValueError, match="neither a memory nor linear attention"):
            answers.measures(found, inputs)
        return
    rows, _ = answers.measures(found, inputs)
    said = {meaning for _, meaning, _ in rows}
    assert said and said <= set(answers.MEANINGS.values())
    assert any("rank of the memory" in meaning for meaning in said) == (
        model_type in ("luna", "convluna", "memory_transformer")
    )


@pytest.mark.parametrize(
    ("limit", "lengths"),
    [(1, [1]), (64, [64]), (80, [64, 80]), (256, [64, 128, 256]), (None, [2**power for power in range(6, 15)])],
)
def test_models_are_timed_up_to_their_last_position(limit, lengths):
    assert answers.timed_lengths(limit) == lengths


@pytest.mark.parametrize("options", [{}, {"pair_features": "concat"}])
def test_times_are_measured_until_patience_ends(options, monkeypatch):
    found = loaded("simpletron", max_position_embeddings=200, **options)
    clock = itertools.count()
    monkeypatch.setattr(answers.time, "perf_counter", lambda: float(next(clock)))
    # Two readings for every pass, six passes for every length, one before them and one after each.
    assert list(answers.measure_times(found, patience=1000.0)) == [(64, 1.0), (128, 1.0), (200, 1.0)]
    assert list(answers.measure_times(found, patience=12.5)) == [(64, 1.0)]


def test_wide_maps_are_for_short_texts():
    with pytest.raises(ValueError, match="is drawn for texts of up to 512 tokens, and this one has 1,000"):
        answers.check_map(loaded("simpletron"), 1000)
    answers.check_map(loaded("simpletron"), 512)
    answers.check_map(loaded("convluna"), 1000)
