"""The metrics against what is computed by hand or by other means, in one go and batch by batch."""

import json
import math

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from hf_effattn.metrics import METRICS, load_metric


def matthews_of_two_classes(predictions, references):
    """From the four counts."""
    pairs = list(zip(predictions, references, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
    return (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))


def correlation_of_classes(predictions, references, classes):
    """Covariance of the one-hot rows, over all classes, in place of counts."""
    one, other = (np.eye(classes)[ids] - np.eye(classes)[ids].mean(0) for ids in (predictions, references))
    return (one * other).sum() / math.sqrt((one * one).sum() * (other * other).sum())


def test_matthews_of_two_classes():
    predictions, references = [1, 1, 1, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 1, 0]
    score = load_metric("matthews").compute(predictions=predictions, references=references)
    assert score == {"matthews": pytest.approx(matthews_of_two_classes(predictions, references))}
    assert load_metric("matthews").compute(predictions=[1, 0], references=[0, 1]) == {"matthews": -1}


def test_matthews_of_many_classes():
    rng = np.random.default_rng(0)
    references = rng.integers(0, 5, size=300)
    predictions = np.where(rng.random(300) < 0.6, references, rng.integers(0, 5, size=300))
    score = load_metric("matthews").compute(predictions=predictions, references=references)
    assert score["matthews"] == pytest.approx(correlation_of_classes(predictions, references, 5))
    assert 0.5 < score["matthews"] < 0.8


def test_matthews_of_one_class_is_zero():
    assert load_metric("matthews").compute(predictions=[1, 1, 1], references=[1, 0, 1]) == {"matthews": 0}


def batches_of_tokens():
    """The loss of every token, in three batches of unequal size."""
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.rand(count, generator=generator, dtype=torch.float64) for count in (1, 40, 7)]


def test_perplexity_is_that_of_all_tokens_whatever_the_batches():
    batches = batches_of_tokens()
    tokens = torch.cat(batches)
    expected = {
        "perplexity": pytest.approx(math.exp(tokens.mean())),
        "bits_per_token": pytest.approx(tokens.mean().item() / 0.6931471805599453),
    }
    means, counts = [batch.mean().item() for batch in batches], [len(batch) for batch in batches]
    assert abs(math.exp(np.mean(means)) / math.exp(tokens.mean()) - 1) > 0.05, "or a mean of means would do"
    of_batches = load_metric("perplexity")
    assert of_batches.compute(predictions=means, references=counts) == expected
    of_tokens = load_metric("perplexity")
    for batch in batches:
        of_tokens.add_batch(predictions=batch, references=torch.ones(len(batch)))
    assert of_tokens.compute() == expected
    one_by_one = load_metric("perplexity")
    for mean, count in zip(means, counts, strict=True):
        one_by_one.add(prediction=mean, reference=count)
    assert one_by_one.compute() == expected


def test_perplexity_leaves_out_rows_without_tokens_and_takes_weights():
    score = load_metric("perplexity").compute(predictions=[math.nan, math.log(4), math.inf], references=[0, 3, 0])
    assert score == {"perplexity": pytest.approx(4), "bits_per_token": pytest.approx(2)}
    score = load_metric("perplexity").compute(predictions=[math.log(2), math.log(8)], references=[0.5, 1.5])
    assert score["bits_per_token"] == pytest.approx((0.5 * 1 + 1.5 * 3) / 2)


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    score = load_metric("perplexity").compute(predictions=[math.log(256)] * 3, references=[10, 1, 5])
    assert score == {"perplexity": pytest.approx(256), "bits_per_token": pytest.approx(8)}


def test_a_hopeless_perplexity_is_infinite_and_its_bits_are_not():
    score = load_metric("perplexity").compute(predictions=[800.0], references=[2])
    assert score == {"perplexity": math.inf, "bits_per_token": pytest.approx(800 / math.log(2))}
    assert load_metric("perplexity").compute(predictions=[709.7], references=[2])["perplexity"] < math.inf


@pytest.mark.parametrize(
    ("losses", "tokens", "message"),
    [
        ([1.0, math.nan], [3, 2], "loss of row 1, of 2 tokens, is not a number"),
        ([1.0, 1.0], [3, -1], "row 1 has -1.0 tokens"),
        ([1.0], [math.nan], "row 0 has nan tokens"),
        ([1.0, 2.0], [0, 0], "there are no tokens"),
        ([], [], "there are no tokens"),
    ],
)
def test_what_has_no_perplexity_is_refused(losses, tokens, message):
    with pytest.raises(ValueError, match=message):
        load_metric("perplexity").compute(predictions=losses, references=tokens)


@pytest.mark.parametrize(
    ("answer", "right", "exact", "f1"),
    [
        ("The  Eiffel\tTower!", "eiffel tower", 1, 1),
        ("a theatre, an anthem", "theatre anthem", 1, 1),
        ("It's", "its", 1, 1),
        ("Paris", "in Paris", 0, 2 / 3),
        # Two of four words against two of three: precision 1/2, recall 2/3.
        ("one two two three", "two two five", 0, 2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)),
        ("Lyon", "Paris", 0, 0),
        ("the", "", 1, 1),
        ("the", "Paris", 0, 0),
        ("Café", "café", 1, 1),
    ],
)
def test_answers_are_normalised_as_in_squad(answer, right, exact, f1):
    score = load_metric("exact_match").compute(predictions=[answer], references=[right])
    assert score == {"exact_match": exact, "token_f1": pytest.approx(f1)}


def test_the_best_of_several_references_counts():
    score = load_metric("exact_match").compute(
        predictions=["in Paris", "Lyon", "", "Nice", "Rome"],
        references=[["Paris", "the city of Paris", "In Paris."], "Lyon, France", [], [], ("rome", "Roma")],
    )
    # 1; 2/3; no answer, rightly; an answer where there is none; 1.
    assert score == {"exact_match": 3 / 5, "token_f1": pytest.approx((1 + 2 / 3 + 1 + 0 + 1) / 5)}


@pytest.mark.parametrize(
    ("answers", "references", "message"),
    [
        ([], [], "there are no answers"),
        (["b", None], ["b", "c"], "an answer is a text, not None"),
        (["b", "c"], ["b", None], "a reference is a text or a list of texts, not None"),
        (["b", "c"], ["b", ["c", 3]], r"a reference is a text or a list of texts, not \['c', 3\]"),
        (["b", "c"], ["b"], "Mismatch in the number of predictions"),
    ],
)
def test_what_are_no_answers_is_refused(answers, references, message):
    with pytest.raises(ValueError, match=message):
        load_metric("exact_match").compute(predictions=answers, references=references)


def test_answers_are_added_one_by_one():
    metric = load_metric("exact_match")
    for answer, right in (("a b", "b"), ("c", ["d", "e"])):
        metric.add(prediction=answer, reference=right)
    assert metric.compute() == {"exact_match": 0.5, "token_f1": 0.5}


ROWS = {
    "accuracy": ([0, 1, 1, 0, 1], [0, 1, 0, 0, 0]),
    "exact_match": (["a b", "b", "c d", "d", "e"], [["b"], ["b", "c"], ["d e"], ["x"], []]),
    "f1": ([0, 1, 1, 0, 1], [0, 1, 0, 0, 0]),
    "matthews": ([0, 1, 1, 0, 1], [0, 1, 0, 0, 0]),
    "perplexity": ([1.0, 2.0, 0.5, 3.0, 1.5], [10, 1, 3, 2, 7]),
}


@pytest.mark.parametrize("name", METRICS)
def test_batches_of_any_size_give_what_one_call_gives(name):
    predictions, references = ROWS[name]
    whole = load_metric(name).compute(predictions=predictions, references=references)
    metric = load_metric(name)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5)):
        metric.add_batch(predictions=predictions[rows], references=references[rows])
    assert metric.compute() == whole
    worse = load_metric(name).compute(predictions=predictions[:4], references=references[:4])
    assert worse != whole, "or the last batch could be lost"
    assert metric.compute(predictions=predictions[:4], references=references[:4]) == worse, "nothing is left over"


def test_metrics_are_combined_and_saved(tmp_path):
    predictions, references = ROWS["accuracy"]
    combined = evaluate.combine([load_metric(name) for name in ("accuracy", "f1", "matthews")])
    combined.add_batch(predictions=predictions[:2], references=references[:2])
    combined.add_batch(predictions=predictions[2:], references=references[2:])
    scores = combined.compute()
    assert scores["accuracy"] == 0.6
    assert scores["f1"] == pytest.approx(f1_score(references, predictions))
    assert scores["matthews"] == pytest.approx(matthews_of_two_classes(predictions, references))
    saved = json.loads(evaluate.save(tmp_path / "scores.json", **scores, run="first").read_text())
    assert {**scores, "run": "first"}.items() <= saved.items()


def test_combined_metrics_of_the_same_name_are_told_apart():
    modules = {"words": load_metric("exact_match"), "again": load_metric("exact_match")}
    scores = evaluate.combine(modules).compute(predictions=["a b"], references=["b"])
    assert scores["words_exact_match"] == scores["again_exact_match"] == 1
