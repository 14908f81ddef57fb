"""Damaged checkpoints, full disks and killed processes: a run goes on from what is whole, and claims nothing else."""

import contextlib
import json
import logging
import resource
import shutil
import struct
import zipfile
from types import SimpleNamespace

import datasets
import pytest
import torch
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_effattn
from hf_effattn.files import disk_errors, read_json, sha256
from hf_effattn.hub.export import export_checkpoint
from hf_effattn.lra.task import TASKS
from hf_effattn.training import trainer as trainers
from hf_effattn.training.checkpoint_files import CHECKSUMS, best_weights, checkpoint_of, damage, seal
from hf_effattn.training.checkpoints import ARGUMENTS, checkpoint_to_resume, last_complete_checkpoint
from hf_effattn.training.checks import check_weights_are_kept
from hf_effattn.training.export_run import export_run
from tests.integration.toy_loop import TOY
from tests.integration.user_runs import command_line, script, weights, write_config, write_text
from tests.models.variants import FAMILIES


#: When the run is stopped, the step of its best weights, and its checkpoints.
STOP, BEST, CHECKPOINTS = 7, 4, (2, 4, 6)


class Killed(BaseException):
    """Ends a run as a signal would: no handler of the trainer catches it."""


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def kill():
    raise Killed


@contextlib.contextmanager
def acting(step, action):
    """Do something at the end of a step of the runs that are made meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        make = trainers.CheckedTrainer.__init__

        def armed(self, *args, **kwargs):
            make(self, *args, **kwargs)
            self.add_callback(At(step, action))

        patch.setattr(trainers.CheckedTrainer, "__init__", armed)
        yield


#: The scripts that a test is for: both that share how a run goes, or one where that makes no difference.
of_both = pytest.mark.parametrize("killed", ["run_lra", "run_clm"], indirect=True, scope="module")
of_lra = pytest.mark.parametrize("killed", ["run_lra"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def killed(request, tmp_path_factory):
    """A function that goes on with a run in a folder, and the folder of the run as it was killed."""
    home, name = tmp_path_factory.mktemp("killed"), request.param
    for split, lines in (("train", 60), ("validation", 11)):
        write_text(home / f"{split}.txt", lines)
    if name == "run_lra":
        given = {"task": "toy", "max_length": 10, "metric_for_best_model": "accuracy"}
    else:
        files = {f"{split}_file": home / f"{split}.txt" for split in ("train", "validation")}
        given = files | {"metric_for_best_model": "loss"}
    given |= {"model_config": write_config(home / "config", FAMILIES[0]), "load_best_model_at_end": True}
    given |= {"eval_steps": 2, "save_steps": 2, "eval_on_start": False}
    module = script(name)

    def run(folder, **options):
        return module.main(command_line(**given, output_dir=folder, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "cache")
        patch.setitem(TASKS, "toy", TOY)
        # Which weights are the best is not a matter of luck here.
        scored = trainers.CheckedTrainer._determine_best_metric

        def by_step(self, metrics, trial):
            sign = 1 if self.args.greater_is_better else -1
            metric = f"eval_{self.args.metric_for_best_model}"
            return scored(self, metrics | {metric: -sign * abs(self.state.global_step - BEST)}, trial)

        patch.setattr(trainers.CheckedTrainer, "_determine_best_metric", by_step)
        with acting(STOP, kill), pytest.raises(Killed):
            run(home / "run")
        # The checkpoints know where they were written, and are not there any more.
        yield run, (home / "run").rename(home / "killed")


@pytest.fixture
def copy(killed, tmp_path):
    """The folder of the killed run, moved elsewhere; and a function that goes on with it."""
    run, folder = killed
    shutil.copytree(folder, tmp_path / "moved")
    return tmp_path / "moved", lambda **options: run(tmp_path / "moved", resume=True, **options)


def resumed(folder, **options):
    """What a run with the arguments of the one in `folder` would go on from."""
    training = TrainingArguments(str(folder), use_cpu=True, eval_strategy="steps", **options)
    return checkpoint_to_resume(SimpleNamespace(resume=True), training)


def change(path, how):
    """Damage a file."""
    content = bytearray(path.read_bytes())
    if how == "changed":
        content[len(content) // 2] ^= 1
    elif how == "zeroed":
        content = bytes(len(content))
    elif how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = b""
    path.unlink()
    if how != "missing":
        path.write_bytes(content)


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json")
FILES += ("training_args.bin", "tokenizer.json", CHECKSUMS)
HOWS = ("missing", "empty", "cut", "changed", "zeroed")
#: JSON of so many lists in lists that Python's reader gives up.
DEEP = pytest.param(b"[" * 10**5, id="deep")


@of_lra
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_named_and_passed_over(copy, caplog, file, how):
    folder, _ = copy
    if (file, how) == (CHECKSUMS, "missing"):
        pytest.skip("it is that of an earlier version")
    assert last_complete_checkpoint(folder) == folder / "checkpoint-6"
    change(folder / "checkpoint-6" / file, how)
    with caplog.at_level(logging.WARNING):
        assert last_complete_checkpoint(folder) == folder / "checkpoint-4"
    assert f"{folder}/checkpoint-6 is damaged and passed over: " in caplog.text
    shutil.rmtree(folder / "checkpoint-2")
    change(folder / "checkpoint-4" / file, how)
    assert last_complete_checkpoint(folder) is None


@of_lra
@pytest.mark.parametrize("content", [b"null", b"[]", b"{}", b'{"global_step": "six", "max_steps": 8}', b"\xff", DEEP])
def test_a_state_of_another_form_is_damage(copy, content):
    folder, _ = copy
    (folder / "checkpoint-6/trainer_state.json").write_bytes(content)
    assert damage(folder / "checkpoint-6") is not None


@of_lra
@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"files": [], "best_weights": {}}', '{"files": {}}'])
def test_checksums_of_another_form_are_damage(copy, content):
    folder, _ = copy
    (folder / "checkpoint-6" / CHECKSUMS).write_text(content)
    assert "holds no checksums" in damage(folder / "checkpoint-6")


@of_both
def test_checksums_are_written_last(killed):
    _, folder = killed
    for step in CHECKPOINTS:
        checkpoint = checkpoint_of(folder, step)
        sealed = read_json(checkpoint / CHECKSUMS)
        names = {path.name for path in checkpoint.iterdir()} - {CHECKSUMS}
        assert sealed["files"] == {name: sha256(checkpoint / name) for name in names}
        best = checkpoint_of(folder, min(step, BEST))
        assert sealed["best_weights"] == {"model.safetensors": sha256(best / "model.safetensors")}
        latest = max(path.stat().st_mtime_ns for path in checkpoint.iterdir())
        assert (checkpoint / CHECKSUMS).stat().st_mtime_ns == latest


@of_both
def test_a_run_goes_on_where_it_was_moved_and_its_weights_are_the_best_ones(copy, monkeypatch):
    folder, finish = copy
    begin, begun = trainers.CheckedTrainer._init_training_state, []

    def watched(self, *arguments):
        trained = begin(self, *arguments)
        begun.append(self.state.best_model_checkpoint)
        return trained

    monkeypatch.setattr(trainers.CheckedTrainer, "_init_training_state", watched)
    # A process that was killed as it exported, or wrote a file, left these.
    left = [folder / name for name in (".model-abc", ".model-old-abc", f".{ARGUMENTS}-abc", ".results.json-abc")]
    for path in left[:2]:
        (path / "model").mkdir(parents=True)
    for path in left[2:]:
        path.touch()
    (folder / "results.json").write_text('{"test": {"te')
    results = finish()
    assert begun == [str(folder / f"checkpoint-{BEST}")], "where the best weights are now"
    assert not any(path.exists() for path in left)
    assert (results["steps"], results["best_step"]) == (8, BEST)
    assert results["weights"] == {"model.safetensors": sha256(folder / f"checkpoint-{BEST}/model.safetensors")}
    assert read_json(folder / "results.json")["weights"] == results["weights"]
    best, last = weights(folder / f"checkpoint-{BEST}"), weights(folder / "checkpoint-8")
    left = weights(folder / "model")
    assert all(torch.equal(left[name], best[name]) for name in best)
    assert not all(torch.equal(left[name], last[name]) for name in last)


@of_lra
@pytest.mark.parametrize("results", [b"", b"{", b"null", b"{}", b"\xff", DEEP])
def test_results_that_are_cut_do_not_count_as_finished(copy, results):
    folder, _ = copy
    (folder / ARGUMENTS).unlink()
    (folder / "results.json").write_bytes(results)
    with pytest.raises(FileExistsError, match=r"has checkpoints but no arguments\.json"):
        resumed(folder)
    (folder / "results.json").write_text('{"steps": 8}')
    with pytest.raises(FileExistsError, match="holds a run that is finished"):
        resumed(folder)


@of_lra
@pytest.mark.parametrize("asked", [b"", b"{", b"null", b'{"arguments": []}', b"\xff", DEEP])
def test_damaged_arguments_are_named_with_what_can_be_done(copy, asked):
    folder, finish = copy
    (folder / ARGUMENTS).write_bytes(asked)
    with pytest.raises(
        FileExistsError, match=r"arguments\.json is damaged, so it is unknown which run made the checkpoints: put it"
    ):
        finish()


@of_lra
@pytest.mark.parametrize("how", HOWS)
def test_a_best_checkpoint_that_is_missing_or_changed_is_an_error_before_training(copy, monkeypatch, how):
    folder, finish = copy
    best = checkpoint_of(folder, BEST)
    if how == "missing":
        shutil.rmtree(best)
    else:
        change(best / "model.safetensors", how)
    remedy = rf"Put {best} back from a copy; or remove it and the checkpoints after it"
    monkeypatch.setattr(trainers.CheckedTrainer, "__init__", lambda *args, **kwargs: pytest.fail("it has begun"))
    with pytest.raises(
        ValueError, match=rf"counts on the weights of checkpoint-4, the best until then, but .*{remedy}"
    ):
        finish()
    assert not (folder / "model").exists()
    # The remedy that it names.
    for step in (BEST, 6):
        shutil.rmtree(checkpoint_of(folder, step), ignore_errors=True)
    assert last_complete_checkpoint(folder) == folder / "checkpoint-2"
    assert best_weights(folder / "checkpoint-2") == {
        "model.safetensors": sha256(folder / "checkpoint-2/model.safetensors")
    }


@of_lra
def test_weights_of_another_checkpoint_are_not_the_best_ones(copy):
    folder, _ = copy
    shutil.rmtree(folder / "checkpoint-4")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-4")
    assert damage(folder / "checkpoint-4") is None
    with pytest.raises(ValueError, match=r"model\.safetensors has changed since it was written"):
        best_weights(folder / "checkpoint-6")


@of_both
@pytest.mark.parametrize("how", HOWS)
def test_best_weights_that_are_damaged_in_the_meantime_are_not_replaced_by_the_last(copy, how):
    folder, finish = copy
    best = checkpoint_of(folder, BEST) / "model.safetensors"
    with acting(STOP, lambda: change(best, how)), pytest.raises(ValueError, match="the best weights were those of"):
        finish()
    assert not (folder / "results.json").exists() and not (folder / "model").exists()


@of_both
def test_weights_that_are_not_the_best_ones_are_never_left_as_such(copy, monkeypatch):
    folder, finish = copy
    monkeypatch.setattr(trainers.CheckedTrainer, "_load_best_model", lambda self: None)
    with pytest.raises(RuntimeError, match=r"the weights in .*model are .*, and the best ones were"):
        finish()
    assert not (folder / "results.json").exists()


def unsealed(folder):
    for step in CHECKPOINTS:
        (checkpoint_of(folder, step) / CHECKSUMS).unlink()


@of_both
def test_checkpoints_of_earlier_versions_go_on_and_it_is_said(copy, caplog):
    folder, finish = copy
    unsealed(folder)
    with caplog.at_level(logging.WARNING):
        results = finish()
    assert f"checkpoint-6 has no {CHECKSUMS}: an earlier version wrote it" in caplog.text
    assert results["weights"] == {"model.safetensors": sha256(folder / f"checkpoint-{BEST}/model.safetensors")}


@of_lra
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
@pytest.mark.parametrize("how", HOWS)
def test_archives_of_earlier_versions_are_looked_through(copy, file, how):
    folder, _ = copy
    unsealed(folder)
    if (file, how) == ("training_args.bin", "missing"):
        pytest.skip("nothing of it is read")
    path = folder / "checkpoint-6" / file
    if how == "changed":
        content = bytearray(path.read_bytes())
        start = zipfile.ZipFile(path).infolist()[0].header_offset
        # Behind the header of the first part: what the archive holds, not how.
        content[start + 30 + sum(struct.unpack_from("<HH", content, start + 26)) + 5] ^= 1
        path.write_bytes(content)
    else:
        change(path, how)
    assert last_complete_checkpoint(folder) == folder / "checkpoint-4"


@of_lra
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_best_weights_of_earlier_versions_are_there(copy, how):
    folder, _ = copy
    unsealed(folder)
    change(folder / f"checkpoint-{BEST}/model.safetensors", how)
    with pytest.raises(
        ValueError, match=r"counts on the weights of checkpoint-4, .*Put .*checkpoint-4 back from a copy"
    ):
        best_weights(folder / "checkpoint-6")


@of_lra
def test_every_process_has_written_before_the_checksums_are(killed, tmp_path, monkeypatch):
    run, _ = killed
    waits = []
    monkeypatch.setattr(trainers, "seal", lambda folder, best: waits.append("sealed") or seal(folder, best))
    make = trainers.CheckedTrainer.__init__

    def watched(self, *args, **kwargs):
        make(self, *args, **kwargs)
        monkeypatch.setattr(self.accelerator, "wait_for_everyone", lambda: waits.append("waited"))

    monkeypatch.setattr(trainers.CheckedTrainer, "__init__", watched)
    run(tmp_path / "run", max_steps=2)
    assert waits[:2] == ["waited", "sealed"]


@pytest.mark.parametrize("saved", [4, 6])
def test_best_weights_that_would_not_be_saved_are_refused(saved):
    message = f"save_steps={saved} and eval_steps=2 the best weights may not be saved, and so could not be loaded: set"
    training = TrainingArguments(
        "unused", use_cpu=True, eval_strategy="steps", save_strategy="steps", eval_steps=2, save_steps=saved
    )
    check_weights_are_kept(training)
    training.load_best_model_at_end = True
    with pytest.raises(ValueError, match=message):
        check_weights_are_kept(training)
    training.save_strategy = "best"
    check_weights_are_kept(training)


@of_both
@pytest.mark.parametrize("name", ["bf16_full_eval", "fp16_full_eval"])
def test_the_weights_that_are_left_are_not_rounded_by_an_evaluation(killed, tmp_path, name):
    run, _ = killed
    with pytest.raises(ValueError, match=f"{name} would round the weights that are left: leave it out, or train with"):
        run(tmp_path / "run", use_cpu=True, **{name: True})


@of_both
def test_without_a_score_to_choose_by_the_last_weights_are_called_the_last(killed, tmp_path, caplog, monkeypatch):
    run, _ = killed
    # As where every loss is NaN, which is no lower than another.
    monkeypatch.setattr(trainers.CheckedTrainer, "_determine_best_metric", lambda self, metrics, trial: False)
    with caplog.at_level(logging.WARNING):
        results = run(tmp_path / "run", max_steps=2)
    assert results["best_step"] is None and "no evaluation gave a score to choose weights by" in caplog.text
    last = [entry["eval_loss"] for entry in results["log"] if "eval_loss" in entry][-1]
    if "validation" in results:
        assert results["validation"]["eval_loss"] == last
    else:
        assert 0 <= results["validation_accuracy"] <= 1


@contextlib.contextmanager
def full_disk(size=2000):
    """No file may become longer than so many bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_file({"a": torch.zeros(10_000)}, path),
        lambda path: torch.save({"a": torch.zeros(10_000)}, path),
        lambda path: path.write_bytes(bytes(10_000)),
    ],
    ids=["safetensors", "torch", "Python"],
)
def test_a_full_disk_is_an_oserror_whoever_writes(tmp_path, write):
    refused = pytest.raises(OSError, match=r"run cannot be written .*: make room")
    with refused, full_disk(), disk_errors("run", "make room"):
        write(tmp_path / "file")


def test_other_errors_are_not_taken_for_a_full_disk():
    for error in (RuntimeError("of a device"), FileExistsError("of a device"), PermissionError(13, "of a device")):
        with pytest.raises(type(error), match="of a device") as raised, disk_errors("run", "make room"):
            raise error
        assert raised.value is error


def test_a_full_disk_leaves_no_half_of_an_export(tmp_path):
    model = hf_effattn.SimpleTronModel(hf_effattn.SimpleTronConfig(hidden_size=16, num_attention_heads=2))
    with pytest.raises(OSError, match=r"model cannot be written .*: make room, or choose another folder"), full_disk():
        export_checkpoint(model, None, tmp_path / "model")
    with pytest.raises(OSError, match=r"model cannot be written .*: make room"), full_disk():
        export_run(model, None, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


@of_lra
def test_a_run_goes_on_after_a_full_disk(copy):
    folder, finish = copy
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    message = "checkpoint-8 cannot be written .*: make room, and go on with --resume true"
    try:
        fill = acting(STOP, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard)))
        with fill, pytest.raises(OSError, match=message):
            finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert last_complete_checkpoint(folder) == folder / "checkpoint-6"
    assert finish()["steps"] == 8


@of_lra
def test_a_checkpoint_that_is_rewritten_has_not_the_checksums_of_before(copy):
    """A run that goes on from the checkpoint before writes the damaged one anew, and may be killed on the way."""
    folder, finish = copy
    change(folder / "checkpoint-6/rng_state.pth", "empty")
    save = Trainer._save_rng_state

    def stop(self, output_dir):
        if output_dir.endswith("checkpoint-6"):
            raise Killed
        save(self, output_dir)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(trainers.CheckedTrainer, "_save_rng_state", stop)
        finish()
    assert last_complete_checkpoint(folder) == folder / "checkpoint-4"
    assert json.loads((folder / "checkpoint-4" / CHECKSUMS).read_text())["files"]
    assert finish()["steps"] == 8


@pytest.mark.parametrize(("results", "trains"), [(None, True), ("", True), ('{"te', True), ('{"steps": 8}', False)])
def test_the_quickstart_goes_on_with_what_has_no_whole_results(tmp_path, monkeypatch, results, trains):
    quickstart, commands = script("quickstart"), []
    monkeypatch.setattr(quickstart.subprocess, "run", lambda command, check: commands.append(command))
    if results is not None:
        (tmp_path / "results.json").write_text(results)
    quickstart.train("simpletron", tmp_path, "recipe.yaml")
    assert len(commands) == trains
