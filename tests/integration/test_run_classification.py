"""The script for classifying texts of one's own: it learns, reads what people have, and refuses what misleads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from datasets import config as datasets_config
from sklearn.metrics import f1_score, log_loss, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, BertConfig, EvalPrediction

import hf_effattn
from hf_effattn.files import read_json
from hf_effattn.training.labels import class_names, with_class_ids
from hf_effattn.training.user_data import DataArguments, load_splits
from tests.integration.user_runs import command_line, labelled_rows, script, weights, write_config, write_csv
from tests.models.variants import FAMILIES, over_families


@pytest.fixture(scope="module")
def run_classification():
    return script("run_classification")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def toy_run(run_classification, tmp_path):
    """A function that runs the script on toy data, with further arguments."""
    for name, rows in (("train", 64), ("validation", 13), ("test", 20)):
        write_csv(tmp_path / f"{name}.csv", labelled_rows(rows))

    def run(folder, family=FAMILIES[0], fields=None, **options):
        given = {
            "train_file": tmp_path / "train.csv",
            "validation_file": tmp_path / "validation.csv",
            "test_file": tmp_path / "test.csv",
            "model_config": write_config(tmp_path / "config", family, **fields or {}),
            "output_dir": tmp_path / folder,
            "metric_for_best_model": "accuracy",
            "load_best_model_at_end": True,
        }
        return run_classification.main(command_line(**given | options))

    return run


@over_families
def test_end_to_end(toy_run, tmp_path, family):
    results = toy_run("run", family, max_steps=24, eval_steps=8, save_steps=8)
    assert results["test"]["test_accuracy"] == 1.0, "the toy task is learnt"
    stored = read_json(tmp_path / "run/results.json")
    assert stored["test"] == results["test"]
    assert stored["validation"]["eval_macro_f1"] == stored["validation"]["eval_matthews"] == 1.0
    assert [stored["data"][name]["rows"] for name in ("train", "validation", "test")] == [64, 13, 20]
    assert stored["arguments"]["label_column"] == "label" and stored["training_arguments"]["seed"] == 42
    assert stored["processes"] == 1 and stored["steps"] == 24
    assert stored["tokens_per_second"] > 0 and stored["peak_memory_bytes"] > 10**7
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model").eval()
    assert model.config.id2label == {0: "no", 1: "yes"} and stored["parameters"] == model.num_parameters()
    tokenizer = hf_effattn.byte_tokenizer(16)
    logits = model(**tokenizer(["aaaa", "bbb"], padding=True, return_tensors="pt")).logits
    assert logits.argmax(-1).tolist() == [0, 1]


def test_the_best_checkpoint_is_scored(toy_run):
    results = toy_run("run", max_steps=12, eval_steps=2, save_steps=2, learning_rate=3.0)
    seen = [entry["eval_accuracy"] for entry in results["log"] if "eval_accuracy" in entry]
    *during, last = seen
    assert len(during) == 6 and len(set(during)) > 1, "the scores go up and down"
    assert results["best_step"] == 2 * (1 + during.index(max(during)))
    assert results["validation"]["eval_accuracy"] == last == max(during)


def columns(name):
    return {name: "text", "label": "label"}


def test_every_kind_of_data_gives_the_same_rows(tmp_path):
    rows = Dataset.from_list(labelled_rows(12)).rename_column("text", "review")
    rows.to_csv(tmp_path / "rows.csv")
    rows.to_json(tmp_path / "rows.jsonl")
    rows.to_parquet(tmp_path / "rows.parquet")
    DatasetDict(train=rows, validation=rows, extra=rows).save_to_disk(str(tmp_path / "splits"))
    rows.save_to_disk(str(tmp_path / "one"))
    (tmp_path / "plain").mkdir()
    rows.to_csv(tmp_path / "plain/train.csv")
    files = [{"train_file": str(tmp_path / f"rows.{kind}")} for kind in ("csv", "jsonl", "parquet")]
    folders = [{"dataset": str(tmp_path / name)} for name in ("splits", "one", "plain")]
    for given in files + folders:
        splits = load_splits(DataArguments(**given, text_column="review"), columns("review"))
        assert set(splits) == {"train", "validation"}
        found = splits["train"] if given.get("dataset", "").endswith("splits") else None
        if found is None:
            assert (len(splits["train"]), len(splits["validation"])) == (11, 1)
            found = Dataset.from_list(sorted([*splits["train"], *splits["validation"]], key=lambda r: r["text"]))
        assert sorted(found["text"]) == sorted(rows["review"])
        assert sorted(found["label"]) == sorted(rows["label"])
        assert found.column_names == ["text", "label"]


def test_a_data_set_may_have_several_configurations(tmp_path):
    for name, rows in (("one", 10), ("two", 20)):
        write_csv(tmp_path / f"{name}.csv", labelled_rows(rows))
    names = [f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("one", "two")]
    (tmp_path / "README.md").write_text("---\nconfigs:\n" + "".join(names) + "---\n")
    splits = load_splits(DataArguments(dataset=str(tmp_path), dataset_config="two"), columns("text"))
    assert {name: len(split) for name, split in splits.items()} == {"train": 18, "validation": 2}


def test_words_that_pandas_takes_for_missing_are_texts(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nNA,a\nnull,b\nNone,a\nfour,b\n")
    splits = load_splits(DataArguments(train_file=str(tmp_path / "train.csv"), validation_share=0.5), columns("text"))
    assert sorted([*splits["train"]["text"], *splits["validation"]["text"]]) == ["NA", "None", "four", "null"]


def test_rows_are_set_aside_by_their_own_seed(tmp_path):
    path = write_csv(tmp_path / "train.csv", labelled_rows(40))

    def validation(**options):
        splits = load_splits(DataArguments(train_file=str(path), **options), {"id": "id"})
        assert sorted([*splits["train"]["id"], *splits["validation"]["id"]]) == list(range(40))
        return splits["validation"]["id"]

    assert len(validation()) == 4 and len(validation(validation_share=0.25)) == 10
    assert list(validation()) == list(validation()) != list(validation(split_seed=1))


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["b", "a", "b"], None, ["a", "b"]),
        ([10, 9, 10], None, ["9", "10"]),
        ([True, False, True], None, ["False", "True"]),
        ([1, 0, 1], ClassLabel(names=["z", "a", "unseen"]), ["z", "a", "unseen"]),
    ],
)
def test_classes_are_the_labels_of_the_data(labels, kind, names):
    split = Dataset.from_dict({"label": labels})
    split = split if kind is None else split.cast_column("label", kind)
    splits = DatasetDict(train=split, test=split.select([1]))
    assert class_names(splits, "label") == names
    encoded = with_class_ids(splits, "label", names)
    assert encoded["train"]["label"][:] == [1, 0, 1] if kind is None else labels
    assert encoded["train"].features["label"].dtype == "int64"
    assert [names[i] for i in encoded["test"]["label"]] == [names[encoded["train"]["label"][1]]]


@pytest.mark.parametrize(
    ("train", "test", "kind", "message"),
    [
        (["a", "b"], ["c"], None, r"the test split has the labels \['c'\], which no training row has"),
        (["a", None], ["a"], None, "the train split has rows without label"),
        (["a", "b"], [""], None, "the test split has rows without label"),
        ([0, 1], [-1], ClassLabel(names=["a", "b"]), "the test split has rows without label"),
        ([0, 0], [1], ClassLabel(names=["a", "b"]), r"the test split has the labels \['b'\]"),
        ([0.5, 1.0], [0.5], None, "the labels of the train split, column 'label', are float64: name another"),
        ([["a"], ["b"]], [["a"]], None, "are List: name another --label_column"),
        (["a", "a"], ["a"], None, "the training rows have one label alone, 'a': a classifier needs two"),
    ],
)
def test_labels_that_do_not_fit_are_refused(train, test, kind, message):
    splits = DatasetDict(train=Dataset.from_dict({"label": train}), test=Dataset.from_dict({"label": test}))
    splits = splits if kind is None else splits.cast_column("label", kind)
    with pytest.raises(ValueError, match=message):
        class_names(splits, "label")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text,label\na,b\nc,d\n", {"text_column": "review"}, r"no column \['review'\], its columns are \['text', 'l"),
        ("text,label\n1,b\n2,d\n", {}, "the texts of the train split, column 'text', are int64, not strings"),
        ("text,label\n", {}, r"other\.csv has no rows or is no csv"),
        ("text,label\n1,2\n1,2,3,4\n", {}, r"other\.csv has no rows or is no csv: .*Expected 2 fields in line 3"),
        ("", {}, r"other\.csv is empty"),
        ("text,label\na,b\n", {"validation_file": None}, "of 1 training rows leaves one split empty"),
        (None, {"text_column": "label"}, "are columns of their own"),
        (None, {"dataset": "x"}, "exactly one of --train_file and --dataset"),
        (None, {"train_file": None}, "exactly one of --train_file and --dataset"),
        (None, {"train_file": None, "dataset": "x"}, "--validation_file goes with --train_file"),
        (None, {"dataset_config": "x"}, "--dataset_config goes with --dataset"),
        (None, {"validation_share": 1.5}, "must lie between 0 and 1"),
        (None, {"model_name_or_path": "x"}, "exactly one of --model_config and --model_name_or_path"),
        (None, {"model_config": None}, "exactly one of --model_config and --model_name_or_path"),
        (None, {"max_length": 100}, r"max_length \(100\) exceeds the model's positions \(80\)"),
        (None, {"dataloader_drop_last": True}, "would drop the last rows of the evaluation"),
        (None, {"pair_column": "id"}, "the texts of the train split, column 'pair_text', are int64"),
        (None, {"test_file": "x.txt"}, "plain text has no columns"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(toy_run, tmp_path, content, options, message):
    if content is not None:
        (tmp_path / "other.csv").write_text(content)
        options = {"train_file": tmp_path / "other.csv"} | options
    with pytest.raises(ValueError, match=message):
        toy_run("run", **options)


@pytest.mark.parametrize("name", ["train_file", "test_file", "model_config"])
def test_a_file_that_is_not_there_is_named(toy_run, tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"there is no .*file .*nowhere\.csv"):
        toy_run("run", **{name: tmp_path / "nowhere.csv"})


def test_other_kinds_of_files_are_refused(toy_run, tmp_path):
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(ValueError, match=r"rows\.xlsx is none of the kinds \['.csv', '.json'"):
        toy_run("run", train_file=tmp_path / "rows.xlsx")


def test_a_split_without_rows_is_refused(tmp_path):
    rows = Dataset.from_list(labelled_rows(4))
    DatasetDict(train=rows, test=rows.filter(lambda row: False)).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ValueError, match="the test split has no rows: give another file, or leave it out"):
        load_splits(DataArguments(dataset=str(tmp_path / "splits")), columns("text"))


def test_a_data_set_without_training_rows_is_refused(tmp_path):
    DatasetDict(test=Dataset.from_list(labelled_rows(4))).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(ValueError, match=r"has the splits \['test'\] and none called train"):
        load_splits(DataArguments(dataset=str(tmp_path / "splits")), columns("text"))


def test_a_row_without_text_is_named(toy_run, tmp_path):
    rows = [{"text": "a", "label": "no"}, {"text": None, "label": "yes"}]
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="row 1 of the test split has no text"):
        toy_run("run", test_file=tmp_path / "rows.jsonl")


def test_an_earlier_run_is_not_overwritten(toy_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.json").touch()
    with pytest.raises(FileExistsError, match="holds an earlier run: pass --resume true"):
        toy_run("run")


def pairs(tmp_path):
    """Pairs of ``a`` or ``b``: the same letter or not."""
    rows = [("ab"[i % 2] * (3 + i % 5), "ab"[i // 2 % 2] * (2 + i % 3)) for i in range(64)]
    given = [{"one": a, "two": b, "same": int(a[0] == b[0])} for a, b in rows]
    path = write_csv(tmp_path / "pairs.csv", given)
    names = {"text_column": "one", "pair_column": "two", "label_column": "same"}
    return dict.fromkeys(("train_file", "validation_file", "test_file"), path) | names


def test_pairs_are_learnt(toy_run, tmp_path):
    with pytest.raises(ValueError, match="there is a --pair_column, and the model has pair_features=None: set it to"):
        toy_run("run", **pairs(tmp_path))
    with pytest.raises(ValueError, match="no --pair_column, and the model has pair_features='concat': name the"):
        toy_run("run", fields={"pair_features": "concat"})
    # Same or not is no sum of what the two are; a little noise gets the training out of guessing.
    size = {"hidden_size": 24, "num_attention_heads": 3, "hidden_dropout_prob": 0.1}
    fields = {"pair_features": "interaction"} | size
    steps = {"max_steps": 80, "eval_steps": 20, "save_steps": 20}
    results = toy_run("run", fields=fields, **pairs(tmp_path), **steps)
    assert results["test"]["test_accuracy"] == 1.0
    assert results["model_config"]["id2label"] == {0: "0", 1: "1"}


def test_a_model_of_transformers_reads_a_pair_as_one_sequence(toy_run, tmp_path):
    BertConfig(
        vocab_size=260, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16
    ).save_pretrained(tmp_path / "bert")
    results = toy_run("run", model_config=tmp_path / "bert/config.json", max_steps=8, **pairs(tmp_path))
    assert results["model_config"]["model_type"] == "bert" and results["backends"] is None
    tokens = sum(1 + 3 + i % 5 + 1 + 2 + i % 3 for i in range(64))
    assert results["log"][-1]["num_input_tokens_seen"] == tokens, "[CLS], the first text, [SEP] and the second"


def test_fine_tuning_starts_from_a_checkpoint(toy_run, tmp_path):
    toy_run("first", max_steps=2)
    start = {"model_config": None, "model_name_or_path": tmp_path / "first/model"}
    toy_run("second", max_steps=1, learning_rate=0, **start)
    first, second = weights(tmp_path / "first/model"), weights(tmp_path / "second/model")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    other = [row | {"label": row["label"].upper()} for row in labelled_rows(16)]
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), write_csv(tmp_path / "other.csv", other))
    with pytest.raises(ValueError, match=r"the checkpoint classifies into {0: 'no', 1: 'yes'}, and the data has"):
        toy_run("third", **start, **files)
    headless = hf_effattn.SimpleTronModel.from_pretrained(tmp_path / "first/model")
    headless.save_pretrained(tmp_path / "headless")
    start = {"model_config": None, "model_name_or_path": tmp_path / "headless"}
    with pytest.raises(ValueError, match="headless has no tokenizer: name one with --tokenizer"):
        toy_run("third", **start, **files)
    results = toy_run("third", max_steps=1, tokenizer=tmp_path / "first/model", **start, **files)
    assert results["model_config"]["id2label"] == {0: "NO", 1: "YES"}


def test_scores_are_those_of_scikit_learn(run_classification):
    logits = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    labels = np.arange(40) % 3
    found = run_classification.class_scores()(EvalPrediction(predictions=logits, label_ids=labels))
    predicted = logits.argmax(-1)
    assert found["accuracy"] == np.mean(predicted == labels)
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert found["loss"] == pytest.approx(log_loss(labels, shares.astype(np.float64)), rel=1e-5)


def test_only_a_checkpoint_that_classifies_has_to_agree(run_classification, tmp_path):
    model = hf_effattn.SimpleTronForMaskedLM(hf_effattn.SimpleTronConfig(hidden_size=16, num_attention_heads=2))
    model.save_pretrained(tmp_path)
    run = SimpleNamespace(model_name_or_path=str(tmp_path))
    assert run_classification.label_fields(run, ["a", "b"])["label2id"] == {"a": 0, "b": 1}
