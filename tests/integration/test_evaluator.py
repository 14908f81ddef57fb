"""Evaluate's evaluators on this library's models, offline, under transformers 5."""

import datasets
import evaluate
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import hf_effattn
from hf_effattn.lra import get_task
from hf_effattn.metrics import evaluator
from tests.models.variants import FAMILIES, over_causal_families, over_families, tiny_model


TEXTS = ["fine", "not at all", "a film to remember, if you can " * 4, "é", "dull"]


def model_of(family, auto_class, **options):
    return tiny_model(family, auto_class, dtype=torch.float32, vocab_size=260, **options)


def answers(model, tokenizer):
    """Class ids of `TEXTS`, one text at a time, cut at the longest input."""
    encoded = [tokenizer(text, return_tensors="pt", truncation=True) for text in TEXTS]
    with torch.no_grad():
        return [model(**row).logits.argmax(-1).item() for row in encoded]


@over_families
def test_text_classification_scores_the_models_own_answers(family):
    model, tokenizer = model_of(family, "AutoModelForSequenceClassification"), hf_effattn.byte_tokenizer(80)
    right = answers(model, tokenizer)
    labels = [right[0], 1 - right[1], *right[2:]]
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": labels})
    scores = evaluator("text-classification").compute(
        model, rows, tokenizer=tokenizer, metric="accuracy", label_mapping=model.config.label2id
    )
    assert scores["accuracy"] == 4 / 5
    assert scores["accuracy_low"] < 4 / 5 < scores["accuracy_high"]
    assert scores["samples_per_second"] > 0


def test_a_pipeline_or_a_checkpoint_on_disk_and_combined_metrics_are_taken(tmp_path):
    model, tokenizer = model_of(FAMILIES[0], "AutoModelForSequenceClassification"), hf_effattn.byte_tokenizer(80)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1, 1]})
    references, predictions = rows["label"][:], answers(model, tokenizer)
    expected = {
        name: hf_effattn.metrics.load_metric(name).compute(predictions=predictions, references=references)[name]
        for name in ("accuracy", "f1")
    }
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, batch_size=2)
    both = evaluate.combine([hf_effattn.metrics.load_metric(name) for name in expected])
    for source in (pipe, str(tmp_path)):
        found = evaluator("sentiment-analysis").compute(source, rows, metric=both, label_mapping=model.config.label2id)
        assert {name: found[name] for name in expected} == expected


def test_the_metric_is_the_packages_own_by_default_and_bootstrapped_on_request():
    model, tokenizer = model_of(FAMILIES[0], "AutoModelForSequenceClassification"), hf_effattn.byte_tokenizer(80)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 0, 1, 1]})
    scores = evaluator("text-classification").compute(
        model,
        rows,
        tokenizer=tokenizer,
        label_mapping=model.config.label2id,
        strategy="bootstrap",
        n_resamples=20,
        random_state=0,
    )
    low, high = scores["accuracy"]["confidence_interval"]
    assert low <= scores["accuracy"]["score"] <= high
    assert "score" in scores["accuracy_low"], "which evaluate's own accuracy does not have"


def test_image_classification_scores_a_checkpoint_with_its_image_processor(tmp_path):
    model = model_of(FAMILIES[0], "AutoModelForImageClassification", num_channels=1, max_position_embeddings=785)
    task = get_task("fashion_mnist")
    hf_effattn.export_checkpoint(model, task.image_processor(), tmp_path / "model")
    shades = np.random.default_rng(0).integers(0, 256, (4, 28, 28)).astype(np.uint8)
    batch = task.collator(None)([{"image": picture, "label": 0} for picture in shades])
    with torch.no_grad():
        right = model(batch["pixel_values"]).logits.argmax(-1).tolist()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    labels = [1 - right[0], *right[1:]]
    rows = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(picture) for picture in shades], "label": labels}, features=features
    )
    scores = evaluator("image-classification").compute(
        str(tmp_path / "model"), rows, label_mapping=model.config.label2id
    )
    assert scores["accuracy"] == 3 / 4


class WordAccuracy(evaluate.Metric):
    """Share of the words that have the right label's name."""

    def _info(self):
        names = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="",
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": names, "references": names}),
        )

    def _compute(self, predictions, references):
        pairs = [pair for rows in zip(predictions, references, strict=True) for pair in zip(*rows, strict=True)]
        return {"word_accuracy": sum(one == other for one, other in pairs) / len(pairs)}


@over_families
def test_token_classification_scores_the_first_byte_of_every_word(family):
    model, tokenizer = model_of(family, "AutoModelForTokenClassification"), hf_effattn.byte_tokenizer(80)
    words = [["a", "film", "to", "remember"], ["né", "à", "Paris"]]
    names = []
    for row in words:
        text = " ".join(row)
        with torch.no_grad():
            ids = model(**tokenizer(text, return_tensors="pt")).logits[0].argmax(-1)
        starts = [len(" ".join([*row[:i], ""]).encode()) for i in range(len(row))]
        # [CLS] comes before the bytes.
        names.append([model.config.id2label[ids[1 + start].item()] for start in starts])
    other = {"LABEL_0": "LABEL_1", "LABEL_1": "LABEL_0"}
    tags = [[other[names[0][0]], *names[0][1:]], names[1]]
    rows = datasets.Dataset.from_dict({"tokens": words, "ner_tags": tags})
    scores = evaluator("token-classification").compute(model, rows, tokenizer=tokenizer, metric=WordAccuracy())
    assert scores["word_accuracy"] == 6 / 7


class Lengths(evaluate.Measurement):
    """Characters of all texts."""

    def _info(self):
        return evaluate.MeasurementInfo(
            description="",
            citation="",
            inputs_description="",
            features=datasets.Features({"data": datasets.Value("string")}),
        )

    def _compute(self, data):
        return {"characters": sum(map(len, data)), "texts": len(data)}


@over_causal_families
def test_text_generation_measures_what_is_written(family):
    model, tokenizer = model_of(family, "AutoModelForCausalLM"), hf_effattn.byte_tokenizer(80)
    rows = datasets.Dataset.from_dict({"text": ["Once", "upon a time"]})
    pipe = transformers.pipeline(
        "text-generation", model=model, tokenizer=tokenizer, max_new_tokens=3, do_sample=False
    )
    scores = evaluator("text-generation").compute(pipe, rows, metric=Lengths())
    written = [pipe(text)[0]["generated_text"] for text in rows["text"]]
    assert (scores["characters"], scores["texts"]) == (len("".join(written)), 2)


def test_transformers_is_left_as_it_is():
    """And plain evaluate still fails: once it does not, the evaluators here are not needed any more."""
    model = model_of(FAMILIES[0], "AutoModelForSequenceClassification")
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * 5})
    options = {"tokenizer": hf_effattn.byte_tokenizer(80), "label_mapping": model.config.label2id}
    evaluator("text-classification").compute(model, rows, **options)
    assert not hasattr(transformers, "TFPreTrainedModel")
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=options["tokenizer"])
    with pytest.raises(AttributeError, match="TFPreTrainedModel"):
        evaluate.evaluator("text-classification").compute(pipe, rows, **options)


def test_tasks_without_an_evaluator_are_refused():
    with pytest.raises(ValueError, match=r"'question-answering'; score answers with load_metric\('exact_match'\)"):
        evaluator("question-answering")
    with pytest.raises(ValueError, match=r"'fill-mask'; the tasks of both are \['audio-classification'"):
        evaluator("fill-mask")


def test_a_pipeline_of_another_task_or_none_is_refused():
    model, tokenizer = model_of(FAMILIES[0], "AutoModelForTokenClassification"), hf_effattn.byte_tokenizer(80)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * 5})
    tagger = transformers.pipeline("token-classification", model=model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="is for 'token-classification', but the evaluator is for 'text-classif"):
        evaluator("text-classification").compute(tagger, rows)
    with pytest.raises(ValueError, match="is for None"):
        evaluator("text-classification").compute(lambda texts: [], rows)
    with pytest.raises(ValueError, match="model_or_pipeline is None; give a model"):
        evaluator("text-classification").compute(None, rows)
