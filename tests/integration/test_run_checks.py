"""What the training scripts refuse, or count, where `Trainer` left to itself would go wrong without a word."""

import datasets
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import EvalPrediction, TrainingArguments

import hf_effattn
from hf_effattn.data.tokenize import tokenize
from hf_effattn.files import read_json
from hf_effattn.hub.export import weight_checksums
from hf_effattn.lra.task import TASKS
from hf_effattn.training import checkpoints
from hf_effattn.training.checkpoints import ARGUMENTS, checkpoint_to_resume, exclusive_output_dir
from hf_effattn.training.checks import choose_weights_by
from hf_effattn.training.language import chunk_texts, cut_lines, language_scores, token_losses
from hf_effattn.training.lra import LraArguments
from hf_effattn.training.results import ResolvedSetup
from hf_effattn.training.trainer import PairTrainer
from tests.integration.toy_loop import TOY
from tests.integration.user_runs import command_line, labelled_rows, script, write_config, write_csv, write_text
from tests.models.variants import FAMILIES


BY_ACCURACY = {"metric_for_best_model": "accuracy", "load_best_model_at_end": True}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setitem(TASKS, "toy", TOY)


@pytest.fixture
def train(tmp_path):
    """A function that runs a script on toy data, with further arguments."""
    write_text(tmp_path / "train.txt", 60)
    write_text(tmp_path / "validation.txt", 11)

    def run(name, folder="run", fields=None, **options):
        given = {"model_config": write_config(tmp_path / "config", FAMILIES[0], **fields or {})}
        if name.startswith("run_lra"):
            given |= {"task": "toy", "max_length": 10, **BY_ACCURACY}
        elif name == "run_classification":
            write_csv(tmp_path / "train.csv", labelled_rows(64))
            given |= {"train_file": tmp_path / "train.csv", **BY_ACCURACY}
        else:
            given |= {"train_file": tmp_path / "train.txt", "validation_file": tmp_path / "validation.txt"}
        given["output_dir"] = tmp_path / folder
        return script(name).main(command_line(**given | options))

    return run


def chosen(metric, **options):
    training = TrainingArguments(output_dir="unused", metric_for_best_model=metric, use_cpu=True, **options)
    choose_weights_by(training, higher=("accuracy",), lower=("loss", "perplexity"))
    return training.greater_is_better


def test_which_end_of_a_metric_is_the_good_one():
    assert [chosen(name) for name in ("accuracy", "eval_accuracy", "loss", "eval_loss", "perplexity")] == [
        *(True, True, False, False, False)
    ]
    assert chosen(None) is None
    with pytest.raises(ValueError, match="greater_is_better=False would keep the worst weights by 'accuracy'"):
        chosen("accuracy", greater_is_better=False)
    with pytest.raises(ValueError, match="greater_is_better=True would keep the worst weights by 'loss'"):
        chosen("loss", greater_is_better=True)
    with pytest.raises(ValueError, match="metric_for_best_model is 'f1'; this script measures accuracy, loss, perpl"):
        chosen("f1")


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte"])
def test_the_weights_with_the_lowest_perplexity_are_kept(train, metric):
    results = train("run_clm", metric_for_best_model=metric, load_best_model_at_end=True)
    measured = {entry["step"]: entry[f"eval_{metric}"] for entry in results["log"] if f"eval_{metric}" in entry}
    assert results["best_step"] == min(measured, key=measured.get) == 8
    assert results["validation"][f"eval_{metric}"] == min(measured.values()) < max(measured.values())


@pytest.mark.parametrize("name", ["run_lra", "run_clm", "run_mlm", "run_classification"])
def test_no_row_is_dropped_from_an_evaluation(train, name):
    with pytest.raises(ValueError, match="dataloader_drop_last would drop the last rows of the evaluation"):
        train(name, dataloader_drop_last=True)


def test_masks_are_new_in_every_epoch_or_refused(train):
    with pytest.raises(ValueError, match="dataloader_persistent_workers would keep the masks of the first epoch"):
        train("run_mlm", dataloader_persistent_workers=True, dataloader_num_workers=1)


def test_the_validation_accuracy_is_that_of_the_weights_that_are_left(train):
    options = {"load_best_model_at_end": False, "metric_for_best_model": None, "learning_rate": 0.3}
    results = train("run_lra", save_strategy="no", max_steps=12, eval_steps=2, **options)
    last = [entry["eval_accuracy"] for entry in results["log"] if "eval_accuracy" in entry][-1]
    assert results["validation_accuracy"] == last


class Stopped(BaseException):
    """Ends a run as a signal would."""


@pytest.fixture
def stopped(train, monkeypatch):
    """A function that runs ``run_clm.py`` until its results would be written; its last checkpoint but one is left."""

    def run(**options):
        def stop(*arguments, **measured):
            raise Stopped

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr("hf_effattn.training.train.run_results", stop)
            train("run_clm", **options)

    return run


def test_a_run_of_other_files_is_not_continued(train, stopped, tmp_path, monkeypatch):
    stopped()
    with pytest.raises(
        FileExistsError, match=r"holds another run, with model_config\.hidden_dropout_prob=0\.0, not 0\.5"
    ):
        train("run_clm", resume=True, fields={"hidden_dropout_prob": 0.5})
    with pytest.raises(FileExistsError, match=r"with mixed_precision='no', not 'bf16': restore that"):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
        train("run_clm", resume=True)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION")
    asked = read_json(tmp_path / "run" / ARGUMENTS)
    assert asked["made"]["processes"] == 1
    write_text(tmp_path / "train.txt", 70)
    with pytest.raises(FileExistsError, match=r"holds another run, with data\.train\.rows=60, not 70"):
        train("run_clm", resume=True)
    assert read_json(tmp_path / "run" / ARGUMENTS) == asked
    write_text(tmp_path / "train.txt", 60)
    assert train("run_clm", resume=True)["steps"] == 8


@pytest.fixture
def two_runs(tmp_path):
    """The arguments of two runs in one folder, and what is made of both."""
    training = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    lra = [LraArguments(task=task, model_config="unread", resume=True) for task in ("toy", "listops")]
    return training, lra, ResolvedSetup(model_config={}, data={}, processes=1, mixed_precision="no")


def test_a_folder_without_a_whole_checkpoint_has_its_owner_too(two_runs):
    training, (first, second), made = two_runs
    with exclusive_output_dir(first, training, made):
        pass
    assert checkpoint_to_resume(first, training) is None
    with pytest.raises(
        FileExistsError, match="holds another run, with source='made', not 'generated', task='toy', not"
    ):
        checkpoint_to_resume(second, training)


def test_a_run_that_came_between_is_not_overwritten(two_runs, monkeypatch):
    training, (run, _), made = two_runs
    run.resume = False
    assert checkpoint_to_resume(run, training) is None
    with exclusive_output_dir(run, training, made):
        pass
    with pytest.raises(FileExistsError, match="holds an earlier run"), exclusive_output_dir(run, training, made):
        raise AssertionError
    run.resume = True
    monkeypatch.setattr(checkpoints, "last_complete_checkpoint", lambda folder: folder / "checkpoint-4")
    since = pytest.raises(FileExistsError, match=r"another run has written to .* since this one began")
    with since, exclusive_output_dir(run, training, made):
        raise AssertionError


@pytest.mark.parametrize("name", ["run_lra", "run_lra_no_trainer"])
def test_the_precision_of_a_launcher_is_used_and_told(train, name, tmp_path, monkeypatch):
    results = [train(name, "plain")]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    results.append(train(name, "mixed"))
    assert [found["mixed_precision"] for found in results] == ["no", "bf16"]
    plain, mixed = (weight_checksums(tmp_path / folder / "model") for folder in ("plain", "mixed"))
    assert plain != mixed
    assert read_json(tmp_path / "mixed/results.json")["weights"] == mixed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_for_best_model": "loss"}, "keeps the best weights by accuracy: pass eval_strategy steps"),
        ({"load_best_model_at_end": False}, "keeps the best weights by accuracy"),
        ({"eval_strategy": "no", "load_best_model_at_end": False}, "keeps the best weights by accuracy"),
        ({"greater_is_better": False}, "would keep the worst weights by 'accuracy'"),
        ({"eval_steps": 0.5, "save_steps": 0.5}, "give max_steps and eval_steps in steps"),
    ],
)
def test_the_loop_refuses_another_choice_of_weights(train, options, message):
    with pytest.raises(ValueError, match=message):
        train("run_lra_no_trainer", **options)


@pytest.mark.parametrize("name", ["run_lra", "run_lra_no_trainer", "run_clm"])
def test_a_checkpoint_to_go_on_from_is_not_chosen_by_hand(train, name):
    with pytest.raises(ValueError, match=r"finds the checkpoint itself: pass --resume true, not --resume_from_"):
        train(name, resume_from_checkpoint="checkpoint-4")


def test_both_texts_of_a_pair_are_counted(tmp_path):
    class Counter(PairTrainer):
        def __init__(self):
            self.args = TrainingArguments(
                str(tmp_path), use_cpu=True, include_num_input_tokens_seen="non_padding", report_to=[]
            )
            self.model, self.processing_class = torch.nn.Linear(1, 1), None
            self.create_accelerator_and_postprocess()
            self.state = type("State", (), {"num_input_tokens_seen": 0})()

    counter = Counter()
    masks = torch.tensor([[1, 1, 0], [1, 0, 0]])
    counter._track_num_input_tokens({"input_ids": masks, "attention_mask": masks})
    assert counter.state.num_input_tokens_seen == 3
    pair = {"pair_input_ids": masks, "pair_attention_mask": torch.ones(2, 5, dtype=torch.int64)}
    counter._track_num_input_tokens({"input_ids": masks, "attention_mask": masks, **pair})
    assert counter.state.num_input_tokens_seen == 3 + 13


def test_pictures_have_a_length_of_their_own():
    start = {"model_type": "simpletron", "model_size": {"hidden_size": 16, "num_hidden_layers": 1}}
    start["model_size"] |= {"num_attention_heads": 2, "intermediate_size": 16}
    lengths = {name: LraArguments(task=name, **start).max_length for name in ("text", "image", "path_x", "recall")}
    assert lengths == {"text": 1024, "image": 1025, "path_x": 16385, "recall": 128}
    for name, task in TASKS.items():
        assert task.length is None or LraArguments(task=name, max_length=task.length, **start)
    with pytest.raises(ValueError, match="every sequence of task 'fashion_mnist' has 785 tokens: leave --max_length"):
        LraArguments(task="fashion_mnist", max_length=512, **start)


def test_too_small_models_for_pictures_are_refused_before_any_is_drawn(tmp_path):
    config = write_config(tmp_path / "config", FAMILIES[0], num_channels=1)
    with pytest.raises(ValueError, match=r"max_length \(16385\) exceeds the model's positions"):
        script("run_lra").main(
            command_line(
                task="path_x", model_config=config, output_dir=tmp_path / "run", max_length=None, **BY_ACCURACY
            )
        )


def test_texts_that_spell_special_tokens_are_bytes():
    tokenizer = hf_effattn.byte_tokenizer(64)
    text = "a[PAD][MASK]b"
    expected = [4 + byte for byte in text.encode()]
    splits = DatasetDict(train=Dataset.from_dict({"text": [text], "pair_text": [text], "label": [0]}))
    encoded = tokenize(splits, tokenizer, 64)["train"][0]
    assert encoded["input_ids"] == encoded["pair_input_ids"] == [1, *expected]
    assert tokenize(splits, tokenizer, 64, joined=True)["train"][0]["input_ids"] == [1, *expected, 2, *expected]
    texts = splits.select_columns(["text"])
    assert cut_lines(texts, tokenizer, 64)["train"][0]["input_ids"] == [1, *expected]
    assert chunk_texts(texts, tokenizer, 64, running=True)["train"][0]["input_ids"] == [1, *expected]
    assert tokenizer("[MASK]")["input_ids"] == [1, 3], "a user may still ask for one"


def test_bits_per_byte_count_bytes_alone():
    labels = torch.tensor([[1, 70, 71, 2, 72], [1, 73, 2, -100, -100]])
    logits = torch.randn(2, 5, 260, generator=torch.Generator().manual_seed(0))
    rows = token_losses(logits, labels, shift=True)
    assert rows[:, 1:].tolist() == [[4, 3], [2, 1]]
    scores = language_scores(EvalPrediction(rows.numpy(), None), bytes_are_tokens=True)
    bits = rows[:, 0].double().sum().item() / torch.tensor(2.0).double().log().item()
    assert scores["bits_per_byte"] == pytest.approx(bits / 4)
    assert scores["loss"] == pytest.approx(rows[:, 0].double().sum().item() / 6)


@pytest.mark.parametrize("row", ["1,a b,no,more", '1,"a, b",no,'])
def test_a_row_with_more_cells_than_the_header_is_refused(train, tmp_path, row):
    (tmp_path / "wide.csv").write_text(f"id,text,label\n{row}\n{row}\n")
    with pytest.raises(ValueError, match=r"wide\.csv: the first row has 4 cells, and the header 3: name every column"):
        train("run_classification", train_file=tmp_path / "wide.csv")
