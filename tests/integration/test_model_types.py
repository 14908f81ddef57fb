"""New models of any type under the same recipe: ours, and those of transformers on tokens alone."""

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification

import hf_effattn
from hf_effattn.data.collate import PAIR
from hf_effattn.data.tokenize import tokenize
from hf_effattn.lra import LraTask, get_task
from hf_effattn.lra.collate import PIXEL_VOCABULARY
from hf_effattn.lra.task import TASKS
from hf_effattn.training.lra import LraArguments, prepare
from hf_effattn.training.matched_configs import BEHIND_PADDING, Size, check_length, is_ours, matched_config


SIZE = Size(length=32, vocabulary=50, hidden=16, layers=2, heads=2, intermediate=24)
MODEL_SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BUILTIN = ("bert", "big_bird", "fnet", "funnel", "nystromformer", "reformer", *sorted(BEHIND_PADDING))
WIDE_EMBEDDINGS = ("albert", "electra", "rembert")
FAMILIES = tuple(family.model_type for family in hf_effattn.list_families())


@pytest.mark.parametrize("model_type", [*BUILTIN, *WIDE_EMBEDDINGS, *FAMILIES])
def test_every_type_has_the_size_asked_for(model_type):
    config = matched_config(model_type, SIZE, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    embedding = model.get_input_embeddings().weight
    assert embedding.shape == (50, 16)
    widths = {tuple(p.shape) for p in model.parameters()}
    assert {(24, 16), (16, 24)} <= widths, "both layers of the MLP"
    blocks = getattr(config, "num_hidden_layers", None) or len(config.attn_layers)
    assert blocks == 2
    with torch.no_grad():
        logits = model(torch.randint(1, 50, (2, 32))).logits
    assert logits.shape == (2, 3) and logits.isfinite().all()


def test_bigbird_and_nystromformer_do_not_fall_back_to_full_attention():
    for length in (64, 129, 512, 4096):
        size = Size(length, 50, 16, 2, 2, 24)
        big_bird = matched_config("big_bird", size)
        assert big_bird.attention_type == "block_sparse"
        assert length > 11 * big_bird.block_size, "so short inputs are computed in full"
        nystromformer = matched_config("nystromformer", size)
        assert nystromformer.num_landmarks < nystromformer.segment_means_seq_len == length
        assert length % nystromformer.num_landmarks == 0


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_every_position_may_be_used_and_no_more(model_type):
    config = matched_config(model_type, SIZE)
    check_length(config, 32)
    with pytest.raises(ValueError, match=r"max_length \(33\) exceeds the model's positions \(32\)"):
        check_length(config, 33)


@pytest.mark.parametrize("model_type", ["gpt2", "distilbert"])
def test_a_type_that_would_have_another_size_is_refused(model_type):
    with pytest.raises(ValueError, match=r"has no \[.*'intermediate_size'\], so its model would have another size"):
        matched_config(model_type, SIZE)


def test_options_win_and_are_not_shared_between_configs():
    options = {"shared_projections": ["query"]}
    first, second = (matched_config("luna", SIZE, hidden_dropout_prob=0.5, **options) for _ in range(2))
    assert first.hidden_dropout_prob == 0.5
    assert first.shared_projections == ["query"] and first.shared_projections is not second.shared_projections
    assert is_ours("luna") and not is_ours("bert")


def toy(columns, **fields):
    rows = {name: values[:1] * 8 for name, values in columns.items()}
    split = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["a", "b"]))
    splits = DatasetDict(train=split, validation=split, test=split)
    return LraTask("toy", ("a", "b"), ("made",), lambda source: splits, **fields)


TEXTS = toy({"text": ["abc"], "label": [0]}, tokenizer=hf_effattn.byte_tokenizer)
PAIRS = toy({"text": ["abcdefgh"], "pair_text": ["xy"], "label": [1]}, tokenizer=hf_effattn.byte_tokenizer, pairs=True)
PICTURES = toy(
    {"image": [[[0, 255], [7, 1]]], "label": [1]},
    tokenizer=None,
    pixels=(0.5, 0.5),
    auto_class="AutoModelForImageClassification",
)


def prepared(monkeypatch, task, model_type, **fields):
    monkeypatch.setitem(TASKS, "toy", task)
    fields = {"max_length": 8} | fields
    return prepare(LraArguments(task="toy", model_type=model_type, model_size=MODEL_SIZE, **fields))


def first_batch(found):
    rows = found.encoded["train"].select(range(2))
    return found.collate(list(rows.with_format("numpy") if "image" in rows.column_names else rows))


def test_builtin_models_read_texts_padded_to_one_length(monkeypatch):
    found = prepared(monkeypatch, TEXTS, "bert")
    batch = first_batch(found)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["attention_mask"][0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert found.model.config.vocab_size == 260
    assert found.model(**batch).logits.shape == (2, 2)
    assert first_batch(prepared(monkeypatch, TEXTS, "simpletron"))["input_ids"].shape == (2, 4)


def test_builtin_models_read_a_pair_as_one_sequence(monkeypatch):
    batch = first_batch(prepared(monkeypatch, PAIRS, "bert"))
    text = hf_effattn.byte_tokenizer(16).decode(batch["input_ids"][0])
    assert text.startswith("[CLS]abcdefgh[SEP]xy[PAD]")
    assert batch["input_ids"].shape == (2, 16)
    ours = prepared(monkeypatch, PAIRS, "simpletron", model_options='{"pair_features": "interaction"}')
    assert PAIR + "input_ids" in first_batch(ours)
    assert ours.model.config.pair_features == "interaction"


def test_builtin_models_read_pixels_as_tokens(monkeypatch):
    found = prepared(monkeypatch, PICTURES, "bert", max_length=5)
    assert found.model.config.max_position_embeddings == 4, "no [CLS] stands before the pixels"
    batch = first_batch(found)
    assert batch["input_ids"].tolist() == [[1, 256, 8, 2]] * 2
    assert found.model.config.vocab_size == PIXEL_VOCABULARY
    assert type(found.model).__name__ == "BertForSequenceClassification"
    assert found.model(**batch).logits.shape == (2, 2)
    ours = prepared(monkeypatch, PICTURES, "simpletron", max_length=5)
    batch = first_batch(ours)
    assert batch["pixel_values"].shape == (2, 1, 2, 2)
    assert ours.model(**batch).logits.shape == (2, 2)


def test_rows_of_the_scored_splits_can_be_limited(monkeypatch):
    found = prepared(monkeypatch, TEXTS, "simpletron", validation_rows=3, test_rows=5)
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 8, "validation": 3, "test": 5}
    with pytest.raises(ValueError, match="the test split has 8 rows, 9 were asked for"):
        prepared(monkeypatch, TEXTS, "simpletron", test_rows=9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give exactly one of --model_config, --model_name_or_path and --model_type"),
        ({"model_config": "c.json", "model_type": "luna"}, "give exactly one of"),
        ({"model_config": "c.json", "model_options": {"a": 1}}, "are for a new --model_type"),
        (
            {"model_type": "luna", "model_size": {"hidden_size": 8}},
            r"needs a --model_size of .* got \['hidden_size'\]",
        ),
        ({"model_type": "luna", "model_size": "[1]"}, "a mapping is needed"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LraArguments(**fields)


def test_vocabularies_of_tasks():
    assert get_task("text").vocab_size() == 260
    assert get_task("listops").vocab_size() == 18
    assert get_task("image").vocab_size() is None
    assert get_task("image").for_plain_tokens().vocab_size() == PIXEL_VOCABULARY


def test_joined_pairs_share_their_length():
    splits = PAIRS.load("made")
    rows = tokenize(splits, hf_effattn.byte_tokenizer(8), 4, joined=True)["train"]
    assert len(rows[0]["input_ids"]) == 8
