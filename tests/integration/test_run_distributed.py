"""Two processes: every script gives what one with twice the batch gives, and the launch files hold."""

import re
import socket
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from datasets import config as datasets_config
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from hf_effattn.files import read_json
from hf_effattn.lra.task import TASKS
from hf_effattn.training.checks import check_arguments, check_trainer
from tests.integration.toy_loop import TOY
from tests.integration.user_runs import (
    SCRIPTS,
    command_line,
    labelled_rows,
    launch,
    script,
    weights,
    write_config,
    write_csv,
    write_text,
)
from tests.models.variants import FAMILIES, tiny_model


LAUNCH_FILES = SCRIPTS / "launch"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--config_file")


@pytest.fixture
def options(monkeypatch, tmp_path):
    """A function that gives the arguments of a script for a run in `folder`."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # Thirteen rows are no whole number of batches for two processes.
    for name, rows in (("train", 64), ("validation", 13)):
        write_csv(tmp_path / f"{name}.csv", labelled_rows(rows))
    for name, lines in (("train", 60), ("validation", 11)):
        write_text(tmp_path / f"{name}.txt", lines)

    def make(name, folder, **more):
        kind = "csv" if name == "run_classification" else "txt"
        data = {"train_file": tmp_path / f"train.{kind}", "validation_file": tmp_path / f"validation.{kind}"}
        config = {"model_config": write_config(tmp_path / "config", FAMILIES[0])}
        return command_line(**config, output_dir=tmp_path / folder, use_cpu=True, **(data | more))

    return make


def two_machines():
    """Launchers that take themselves for those of two machines with one process each, as multi_node.yaml has eight."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = ("--main_process_ip", "127.0.0.1", "--main_process_port", port)
    size = ("--num_processes", "2", "--mixed_precision", "no")
    return [
        (*ACCELERATE, LAUNCH_FILES / "multi_node.yaml", *size, *where, "--machine_rank", rank) for rank in ("0", "1")
    ]


#: Each script is started in another way, so that all of them are seen to give two processes.
LAUNCHERS = {
    "run_classification": lambda: [TORCHRUN],
    "run_mlm": two_machines,
    "run_clm": lambda: [(*ACCELERATE, LAUNCH_FILES / "cpu_2.yaml")],
}


def assert_same_runs(folder):
    one, two = (read_json(folder / name / "results.json") for name in ("one", "two"))
    losses, others = ([entry["loss"] for entry in run["log"] if "loss" in entry] for run in (one, two))
    assert len(losses) == 8 and losses[0] > losses[-1]
    assert others == pytest.approx(losses, rel=1e-5)
    same = [weights(folder / name / "model") for name in ("one", "two")]
    for name, tensor in same[0].items():
        torch.testing.assert_close(same[1][name], tensor, rtol=1e-5, atol=1e-5)
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_two_processes_equal_one_with_twice_the_batch(options, tmp_path, name):
    script(name).main(options(name, "one", per_device_train_batch_size=8))
    batch = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 3}
    launch(LAUNCHERS[name](), SCRIPTS / f"{name}.py", *options(name, "two", **batch))
    one, two = assert_same_runs(tmp_path)
    assert (one["processes"], two["processes"]) == (1, 2)
    timed = re.compile("runtime|per_second")
    for score, value in one["validation"].items():
        assert timed.search(score) or two["validation"][score] == pytest.approx(value, rel=1e-5), score
    assert one["data"] == two["data"]


@pytest.mark.slow
def test_two_processes_of_run_lra_equal_one(options, monkeypatch, tmp_path):
    toy = {"train_file": None, "validation_file": None, "task": "toy", "max_length": 10}
    monkeypatch.setitem(TASKS, "toy", TOY)
    script("run_lra").main(options("run_lra", "one", per_device_train_batch_size=8, **toy))
    two = options("run_lra", "two", per_device_train_batch_size=4, **toy)
    launch([TORCHRUN], "-m", "tests.integration.toy_trainer", *two)
    one, two = assert_same_runs(tmp_path)
    assert one["test"]["test_accuracy"] == two["test"]["test_accuracy"]
    assert (one["processes"], two["processes"]) == (1, 2)


def test_processes_that_do_not_find_each_other_are_refused(monkeypatch):
    check_arguments(SimpleNamespace(world_size=1, dataloader_drop_last=False))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_arguments(SimpleNamespace(world_size=2, dataloader_drop_last=False))
    with pytest.raises(ValueError, match="2 processes were started, but Accelerate found 1, so each would train for"):
        check_arguments(SimpleNamespace(world_size=1, dataloader_drop_last=False))


def sharding(asked, done, **config):
    arguments = SimpleNamespace(fsdp=asked, device=torch.device("cpu"), label_smoothing_factor=0.0)
    model = SimpleNamespace(config=SimpleNamespace(**config))
    return SimpleNamespace(args=arguments, is_fsdp_enabled=done, model=model)


def test_sharding_that_would_be_left_out_is_refused(monkeypatch):
    check_trainer(sharding(False, False, orthogonality_penalty=0.1))
    check_trainer(sharding(True, True, orthogonality_penalty=0))
    check_trainer(sharding(True, True))
    with pytest.raises(ValueError, match="FSDP and an orthogonality_penalty do not go together"):
        check_trainer(sharding(True, True, orthogonality_penalty=0.1))
    with pytest.raises(ValueError, match="Accelerate shards nothing on 'cpu' and would train without FSDP"):
        check_trainer(sharding(True, False))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="Accelerate shards nothing on 'cpu'"):
        check_trainer(sharding(False, False))


def test_smoothing_without_the_penalty_is_refused():
    trainer = sharding(False, False, orthogonality_penalty=0.1)
    trainer.args.label_smoothing_factor = 0.1
    with pytest.raises(ValueError, match="label_smoothing_factor leaves the orthogonality_penalty out of the loss"):
        check_trainer(trainer)
    trainer.model.config.orthogonality_penalty = 0.0
    check_trainer(trainer)


@pytest.mark.parametrize(
    ("name", "kind", "processes", "machines"),
    [
        ("cpu_2", DistributedType.MULTI_GPU, 2, 1),
        ("fsdp", DistributedType.FSDP, 8, 1),
        ("multi_node", DistributedType.MULTI_GPU, 16, 2),
    ],
)
def test_launch_files_load(name, kind, processes, machines):
    path = LAUNCH_FILES / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.num_processes, config.num_machines) == (kind, processes, machines)
    assert config.machine_rank == 0 and config.use_cpu == (name == "cpu_2")
    assert config.mixed_precision == ("no" if name == "cpu_2" else "bf16")
    assert (config.main_process_port == 0) == (machines == 1)
    # Each field has its line, and no line a field that the loader does not know.
    assert set(yaml.safe_load(path.read_text())) <= set(ClusterConfig.__dataclass_fields__)


def test_every_launch_file_is_tested():
    assert {path.stem for path in LAUNCH_FILES.iterdir()} == {"cpu_2", "fsdp", "multi_node"}


def test_the_sharding_file_wraps_the_blocks_of_every_family(monkeypatch):
    path = LAUNCH_FILES / "fsdp.yaml"
    settings = load_config_from_file(str(path)).fsdp_config
    for name, value in settings.items():
        monkeypatch.setenv(name.upper(), str(value))
    blocks = set()
    for family in FAMILIES:
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.auto_wrap_policy is transformer_auto_wrap_policy
        model = tiny_model(family)
        plugin.set_auto_wrap_policy(model)
        wrapped = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
        assert {type(layer) for layer in model.layers} == wrapped
        blocks |= {kind.__name__ for kind in wrapped}
    assert all(name in path.read_text() for name in blocks), "the comment names them all"


@pytest.mark.slow
def test_models_in_shards_train_as_whole_ones(tmp_path):
    launcher = (*ACCELERATE, LAUNCH_FILES / "fsdp.yaml", "--num_processes", "2")
    launch([launcher], "-m", "tests.integration.sharded_steps", tmp_path / "found.json")
    found = read_json(tmp_path / "found.json")
    assert found["processes"] == 2 and len(found["models"]) >= 2 * len(FAMILIES)
    for name, run in found["models"].items():
        assert run["blocks"] == [True, True] and run["in shards"], name
        assert run["losses"] == pytest.approx(run["expected"], rel=1e-5), name
        assert run["losses"][0] != run["losses"][1], name
        assert run["difference"] < 1e-5, name
    assert found["files"] == ["optimizer.bin", "pytorch_model_fsdp.bin"]
