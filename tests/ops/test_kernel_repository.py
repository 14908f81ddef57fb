"""The kernels as a repository of the ``kernels`` library, in a local folder."""

import ast
import json
import sys
from pathlib import Path

import kernels
import pytest
import torch

import hf_effattn.kernels
from hf_effattn.families import find
from hf_effattn.kernels.library import ACTIVATIONS, DTYPES
from hf_effattn.kernels.repository import write_repository
from hf_effattn.models import base_map_layer
from hf_effattn.models.backend_cpu import CPU_DTYPES
from tests.models.variants import padded, random_ids, tiny_model
from tests.numerics import assert_close


ROWS = [random_ids(1, length, seed=length)[0] for length in (17, 9, 1)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("kernels") / "linear-attention")


def outputs_and_gradients(model):
    ids, mask = padded(ROWS, "right")
    hidden = model(ids, attention_mask=mask).last_hidden_state[mask == 1]
    hidden.tanh().sum().backward()
    return {"hidden states": hidden} | {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("model_type", ["simpletron", "kernel_transformer"])
def test_kernelize_puts_them_into_a_model(repository, model_type):
    # The backend asked for is the plain one: what runs instead comes from the repository.
    options = {"dtype": torch.float32, "attention_backend": "torch"}
    plain, fast = (tiny_model(find(model_type), **options) for _ in range(2))
    layer = kernels.LocalLayerRepository(repository, layer_name="LinearAttention")
    with kernels.use_kernel_mapping({"LinearAttention": {"cpu": layer}}, inherit_mapping=False):
        fast = kernels.kernelize(fast.train(), mode=kernels.Mode.TRAINING, device="cpu").eval()
    forward = fast.layers[0].attention.operator.forward
    assert "_linear_attention_cpu_" in forward.__func__.__module__
    expected = outputs_and_gradients(plain)
    for name, tensor in outputs_and_gradients(fast).items():
        assert_close(name, tensor / expected[name].norm(), expected[name] / expected[name].norm())


def test_the_repository_stands_alone(repository):
    """It and the package that it is made of import their own files, torch and Python's library: it names no others."""
    variant = repository / "build" / "torch-cpu"
    assert json.loads((variant / "metadata.json").read_text())["python-depends"] == []
    files = [*variant.rglob("*.py"), *Path(hf_effattn.kernels.__file__).parent.rglob("*.py")]
    assert len(files) > 10
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                roots = [] if node.level else [str(node.module)]
            else:
                roots = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for root in roots:
                assert root.split(".")[0] in {"torch", *sys.stdlib_module_names}, (path, root)


def test_nothing_is_overwritten(repository):
    with pytest.raises(FileExistsError, match="is not empty; give a new folder"):
        write_repository(repository)


def test_the_kernels_number_the_activations_as_the_models_name_them():
    assert list(base_map_layer.ACTIVATIONS) == list(ACTIVATIONS)


def test_the_kernels_take_the_dtypes_that_the_models_give_them():
    assert set(CPU_DTYPES) == set(DTYPES)
