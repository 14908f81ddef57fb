"""The scripts for language models: they learn, score every token once, resume to the bit, and refuse what leaks."""

import math

import pytest
import torch
from datasets import Dataset, DatasetDict
from datasets import config as datasets_config
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    DataCollatorForLanguageModeling,
    EvalPrediction,
    GPT2Config,
    TokenizersBackend,
    TrainerCallback,
)

import hf_effattn
from hf_effattn.families import find
from hf_effattn.files import read_json
from hf_effattn.training.checkpoint_files import CHECKSUMS, damage
from hf_effattn.training.checkpoints import last_complete_checkpoint
from hf_effattn.training.language import (
    MaskingCollator,
    chunk_texts,
    cut_lines,
    frame,
    language_scores,
    token_losses,
)
from hf_effattn.training.user_data import DataArguments, load_splits
from tests.integration.user_runs import command_line, script, weights, write_config, write_text
from tests.models.variants import FAMILIES, over_causal_families, over_families


BYTES = hf_effattn.byte_tokenizer(16)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def scripts():
    return {name: script(name) for name in ("run_mlm", "run_clm")}


@pytest.fixture
def toy_run(scripts, tmp_path):
    """A function that runs one of the scripts on a toy text, with further arguments."""
    for name, lines in (("train", 60), ("validation", 11), ("test", 7)):
        write_text(tmp_path / f"{name}.txt", lines)

    def run(name, folder, family=FAMILIES[0], fields=None, **options):
        given = {
            "train_file": tmp_path / "train.txt",
            "validation_file": tmp_path / "validation.txt",
            "test_file": tmp_path / "test.txt",
            "model_config": write_config(tmp_path / "config", family, **fields or {}),
            "output_dir": tmp_path / folder,
            "metric_for_best_model": "loss",
            "load_best_model_at_end": True,
        }
        return scripts[name].main(command_line(**given | options))

    return run


@over_causal_families
def test_causal_end_to_end(toy_run, tmp_path, family):
    results = toy_run("run_clm", "run", family, max_steps=80, eval_steps=40, save_steps=40)
    assert results["test"]["test_bits_per_byte"] < 1.5, "the alphabet is learnt; a guess would need eight bits"
    stored = read_json(tmp_path / "run/results.json")
    assert stored["test"] == results["test"] and stored["processes"] == 1
    assert stored["data"]["train"]["rows"] == 60
    for scores, prefix in ((stored["validation"], "eval"), (stored["test"], "test")):
        assert scores[f"{prefix}_perplexity"] == pytest.approx(math.exp(scores[f"{prefix}_loss"]))
        assert scores[f"{prefix}_bits_per_byte"] == pytest.approx(scores[f"{prefix}_loss"] / math.log(2))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model").eval()
    assert model.config.is_decoder
    assert AutoTokenizer.from_pretrained(tmp_path / "run/model").padding_side == "left"
    prompt = BYTES("abcdefghab", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert BYTES.decode(written[0], skip_special_tokens=True) == "abcdefghabcdef"


def test_the_loss_counts_every_byte_of_the_text_once(toy_run, tmp_path):
    results = toy_run("run_clm", "run", max_steps=4, per_device_eval_batch_size=3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/model").eval()
    text, total, tokens = (tmp_path / "test.txt").read_bytes(), 0.0, 0
    assert len(text) % 15, "the last row is shorter"
    for start in range(0, len(text), 15):
        ids = torch.tensor([[1, *(4 + byte for byte in text[start : start + 15])]])
        loss = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum")
        total, tokens = total + loss.item(), tokens + ids.shape[1] - 1
    assert tokens == len(text)
    assert results["test"]["test_loss"] == pytest.approx(total / tokens, rel=1e-5)


@over_families
def test_masked_end_to_end(toy_run, tmp_path, family):
    results = toy_run("run_mlm", "run", family, max_steps=40, eval_steps=20, save_steps=20)
    assert results["test"]["test_bits_per_byte"] < 5, "the letters of the alphabet, out of 256 bytes"
    first, *_ = (entry["eval_loss"] for entry in results["log"] if "eval_loss" in entry)
    assert results["validation"]["eval_loss"] < first
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run/model")
    assert not model.config.is_decoder and results["parameters"] == model.num_parameters()


def test_every_evaluation_masks_the_same_tokens(toy_run):
    results = toy_run("run_mlm", "run", learning_rate=0, load_best_model_at_end=False, eval_steps=2)
    losses = [entry["eval_loss"] for entry in results["log"] if "eval_loss" in entry]
    assert len(losses) == 5 and len(set(losses)) == 1
    other = toy_run("run_mlm", "other", learning_rate=0, load_best_model_at_end=False, mlm_probability=0.5)
    assert other["validation"]["eval_loss"] != losses[0]


def test_lines_are_cut_and_blank_ones_left_out(toy_run):
    splits = DatasetDict(train=Dataset.from_dict({"text": ["ab", " ", "", "x" * 30, "\n"]}))
    rows = cut_lines(splits, BYTES, 6)["train"]["input_ids"][:]
    assert rows == [[1, 4 + ord("a"), 4 + ord("b")], [1, *[4 + ord("x")] * 5]]
    with pytest.raises(ValueError, match=r"the texts of the splits \['train'\] are all blank"):
        cut_lines(DatasetDict(train=splits["train"].select([1, 2])), BYTES, 6)
    results = toy_run("run_mlm", "run", line_by_line=True, max_steps=2)
    assert results["data"]["train"]["rows"] == 60 and results["arguments"]["line_by_line"]


def bodies(rows):
    """The tokens of the rows without the [CLS] in front."""
    assert all(row[0] == BYTES.cls_token_id for row in rows)
    return [token for row in rows for token in row[1:]]


def test_chunks_are_the_whole_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("one\n\n  two é\nthree\n" * 9)
    splits = load_splits(DataArguments(train_file=str(path), validation_share=0.25), {"text": "text"}, True)
    chunks = {name: rows["input_ids"][:] for name, rows in chunk_texts(splits, BYTES, 16, running=True).items()}
    assert {len(row) for row in chunks["train"][:-1]} == {16} and 1 < len(chunks["train"][-1]) <= 16
    found = bytes(token - 4 for name in ("train", "validation") for token in bodies(chunks[name]))
    assert found == path.read_bytes(), "the last lines are the ones set aside"
    assert splits["validation"]["text"][-1] == "three\n" and len(splits["validation"]) == 9


def test_chunks_of_rows_have_an_end_of_text_between():
    splits = DatasetDict(train=Dataset.from_dict({"text": ["abc", "", "defgh"]}))
    rows = chunk_texts(splits, BYTES, 5, running=False)["train"]["input_ids"][:]
    assert BYTES.decode(bodies(rows)) == "abc[SEP][SEP]defgh[SEP]"


def word_tokenizer(folder, front=True, **special):
    """A tokenizer of words with ``<s>`` in front, if asked for, and ``</s>`` behind."""
    vocab = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", "<pad>", "<mask>", "a", "b", "c"])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if front:
        pair = [("<s>", 1), ("</s>", 2)]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pair)
    TokenizersBackend(tokenizer_object=backend, unk_token="<unk>", **special).save_pretrained(folder)
    return TokenizersBackend.from_pretrained(folder)


WORDS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}


def test_another_tokenizer_brings_its_special_tokens(toy_run, tmp_path):
    tokenizer = word_tokenizer(tmp_path / "words", **WORDS)
    assert frame(tokenizer) == ([1], [2])
    for name in ("train", "validation", "test"):
        Dataset.from_dict({"text": ["a b c", "a b"] * 8}).to_json(tmp_path / f"{name}.jsonl")
    files = {f"{name}_file": tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    results = toy_run("run_clm", "run", tokenizer=tmp_path / "words", fields={"vocab_size": 8}, max_steps=2, **files)
    config = results["model_config"]
    assert [config[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")] == [3, 1, 2]
    assert "test_perplexity" in results["test"] and "test_bits_per_byte" not in results["test"]
    rows = chunk_texts(DatasetDict(train=Dataset.from_dict({"text": ["a b c"]})), tokenizer, 4, running=False)
    assert rows["train"]["input_ids"][:] == [[1, 5, 6, 2], [1, 7, 2, 2]]


@pytest.mark.parametrize(
    ("special", "options", "message"),
    [
        (
            WORDS,
            {"fields": {"vocab_size": 7}},
            "the tokenizer has 8 tokens and the model vocab_size=7: set vocab_size",
        ),
        ({"eos_token": "</s>"}, {}, "has no padding token: set its pad_token"),
        ({"pad_token": "<pad>"}, {}, "neither eos_token nor sep_token to end a text with"),
        (WORDS, {"max_length": 2}, "max_length 2 leaves no room beside 2 special tokens"),
    ],
)
def test_tokenizers_that_do_not_serve_are_refused(toy_run, tmp_path, special, options, message):
    word_tokenizer(tmp_path / "words", **special)
    Dataset.from_dict({"text": ["a b c"] * 8}).to_json(tmp_path / "rows.jsonl")
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match=message):
        toy_run("run_clm", "run", **{"tokenizer": tmp_path / "words", "fields": {"vocab_size": 8}, **files, **options})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("run_clm", {"family": "luna"}, r"luna has no causal form: .* or choose one of \['simpletron'"),
        ("run_clm", {"max_length": 100}, r"max_length \(100\) exceeds the model's positions \(80\)"),
        ("run_clm", {"text_column": "review"}, r"the train split has no column \['review'\]"),
        ("run_mlm", {"mlm_probability": 0.0}, "--mlm_probability must lie between 0 and 1"),
        ("run_mlm", {"model_name_or_path": "x"}, "exactly one of --model_config and --model_name_or_path"),
        ("run_mlm", {"train_file": None}, "exactly one of --train_file and --dataset"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(toy_run, name, options, message):
    family = find(options.get("family", "simpletron"))
    with pytest.raises(ValueError, match=message):
        toy_run(name, "run", **options | {"family": family})


def test_models_of_transformers_have_to_be_decoders(scripts):
    with pytest.raises(ValueError, match="this bert is an encoder: set is_decoder to true"):
        scripts["run_clm"].check_causal(BertConfig())
    scripts["run_clm"].check_causal(BertConfig(is_decoder=True))
    scripts["run_clm"].check_causal(GPT2Config())


def test_a_text_of_one_token_is_refused(toy_run, tmp_path):
    (tmp_path / "test.txt").write_text("x")
    with pytest.raises(ValueError, match="a split has a single token or none"):
        toy_run("run_clm", "run")


class Killed(BaseException):
    """Ends a run as a signal would: no handler of the trainer catches it."""


class KillAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["run_clm", "run_mlm"])
def test_a_resumed_run_is_bit_identical(toy_run, scripts, monkeypatch, tmp_path, name):
    options = {"fields": {"hidden_dropout_prob": 0.1}, "save_steps": 2, "eval_steps": 2}
    whole = toy_run(name, "whole", **options)
    make = scripts[name].CheckedTrainer

    def make_armed(**arguments):
        trainer = make(**arguments)
        trainer.add_callback(KillAfter(5))
        return trainer

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(scripts[name], "CheckedTrainer", make_armed)
        toy_run(name, "killed", **options)
    assert not (tmp_path / "killed/results.json").exists()
    resumed = toy_run(name, "killed", resume=True, **options)
    assert same_weights(tmp_path / "whole/model", tmp_path / "killed/model")
    assert resumed["test"]["test_loss"] == whole["test"]["test_loss"] and resumed["steps"] == 8


def test_checkpoints_of_a_run_in_shards_have_files_of_their_own(toy_run, tmp_path):
    toy_run("run_clm", "run", save_steps=4)
    folder = tmp_path / "run/checkpoint-4"
    (folder / CHECKSUMS).unlink()
    (folder / "optimizer.pt").rename(folder / "optimizer.bin")
    assert damage(folder) == "pytorch_model_fsdp.bin is missing or cut short"
    (folder / "pytorch_model_fsdp.bin").write_bytes((folder / "optimizer.bin").read_bytes())
    assert damage(folder) is None and last_complete_checkpoint(tmp_path / "run") == folder


def test_a_masked_model_becomes_a_causal_one(toy_run, tmp_path):
    toy_run("run_mlm", "masked", max_steps=2)
    start = {"model_config": None, "model_name_or_path": tmp_path / "masked/model"}
    results = toy_run("run_clm", "causal", learning_rate=0, max_steps=1, **start)
    assert results["model_config"]["is_decoder"]
    masked, causal = weights(tmp_path / "masked/model"), weights(tmp_path / "causal/model")
    name = "model.embeddings.tokens.weight"
    assert torch.equal(masked[name], causal[name])


def test_losses_of_rows():
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3, -100, -100], [-100] * 5, [0, 1, 2, 3, 4]])
    for shift in (False, True):
        found = token_losses((logits, None), labels, shift)
        used, wanted = (logits[:, :-1], labels[:, 1:]) if shift else (logits, labels)
        for row in range(3):
            expected = torch.nn.functional.cross_entropy(used[row], wanted[row], reduction="sum")
            assert found[row, 0] == pytest.approx(expected.item(), rel=1e-6)
            assert found[row, 1] == (wanted[row] != -100).sum()
            assert found[row, 2] == (wanted[row] >= 4).sum(), "ids from 4 on are bytes"
    sums, counts, _ = found.double().T
    scores = language_scores(EvalPrediction(found.numpy(), None), bytes_are_tokens=False)
    assert scores["loss"] == pytest.approx((sums.sum() / counts.sum()).item()) and "bits_per_byte" not in scores


ROWS = Dataset.from_dict({"input_ids": [[1, *range(10, 30)], [1, *range(10, 20)], [1, *range(40, 60)]]})


def masking(seed=0):
    return MaskingCollator(DataCollatorForLanguageModeling(BYTES, mlm_probability=0.5), seed)


def test_masks():
    batch = masking()(list(ROWS.select([0, 1])))
    asked = batch["labels"] != -100
    original = torch.tensor([[1, *range(10, 30)], [1, *range(10, 20), *[0] * 10]])
    assert torch.equal(batch["labels"][asked], original[asked]) and 0 < asked.sum() < 30
    assert not asked[:, 0].any() and not asked[1, 11:].any(), "neither [CLS] nor padding is predicted"
    assert batch["attention_mask"].sum(1).tolist() == [21, 11]
    assert torch.equal(batch["input_ids"][~asked], original[~asked])
    assert (batch["input_ids"][asked] == BYTES.mask_token_id).float().mean() > 0.5


def test_masks_depend_on_the_row_and_the_epoch_alone():
    collate = masking()
    rows = list(ROWS)
    whole = collate(rows)["labels"]
    torch.manual_seed(7)
    apart = torch.cat([collate(rows[2:])["labels"], collate(rows[:1])["labels"]])
    assert torch.equal(apart, whole[[2, 0]])
    assert not torch.equal(whole[0] != -100, whole[2] != -100), "each row has masks of its own"
    assert not torch.equal(masking(seed=1)(rows)["labels"], whole)
    collate.epoch = 1
    assert not torch.equal(collate(rows)["labels"], whole)
    held_out = list(ROWS.map(masking().masked))
    assert torch.equal(collate(held_out)["labels"], whole), "rows that have labels keep them"


def test_every_epoch_masks_anew(toy_run, scripts, monkeypatch):
    seen = []
    original = MaskingCollator.masked

    def watched(self, row):
        seen.append(self.epoch)
        return original(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(MaskingCollator, "masked", watched)
        rows = math.ceil((60 * 17) / 15)
        toy_run("run_mlm", "run", max_steps=None, num_train_epochs=3, load_best_model_at_end=False)
    assert [seen.count(epoch) for epoch in (1, 2)] == [rows, rows]
