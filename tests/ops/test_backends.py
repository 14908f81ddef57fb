from dataclasses import replace

import pytest
import torch

import hf_effattn
from hf_effattn.models import backend_table as table
from hf_effattn.models import ops_linear, ops_softmax  # noqa: F401, register their backends before a test hides them
from hf_effattn.models.backend_table import Backend, register_backend, resolve_backend
from hf_effattn.models.base_call import LinearAttentionCall
from hf_effattn.models.base_map_layer import MapLayer


@pytest.fixture
def toy_operator(monkeypatch):
    monkeypatch.setattr(table, "_BACKENDS", {})
    register_backend("toy", Backend("fast", max, dtypes=(torch.half,)))
    register_backend("toy", Backend("slow", min))
    register_backend("toy", Backend("oracle", sum, automatic=False))


def resolve(name, dtype=torch.float32):
    return resolve_backend("toy", name, torch.device("cpu"), dtype).name


@pytest.mark.usefixtures("toy_operator")
def test_auto_takes_the_first_that_serves():
    assert resolve("auto", torch.half) == "fast"
    assert resolve("auto") == "slow"


@pytest.mark.usefixtures("toy_operator")
def test_a_backend_by_name_is_never_replaced():
    assert resolve("oracle") == "oracle"
    with pytest.raises(
        RuntimeError, match=r"'fast' cannot run 'toy' in torch\.float32 on cpu: its kernels take float16, not"
    ):
        resolve("fast")
    with pytest.raises(ValueError, match=r"unknown attention_backend 'faster'.*\['auto', 'fast', 'slow', 'oracle'\]"):
        resolve("faster")


@pytest.mark.usefixtures("toy_operator")
def test_the_table_says_what_runs_and_why_not():
    assert hf_effattn.backends()["toy"] == {
        "fast": "its kernels take float16, not torch.float32",
        "slow": "chosen",
        "oracle": "available",
    }


def test_wide_heads_go_past_the_triton_kernels():
    place = "linear_attention", "auto", torch.device("cuda"), torch.float32
    assert resolve_backend(*place, 256).name == "triton"
    assert resolve_backend(*place, 257).name == "torch"
    with pytest.raises(RuntimeError, match=r"'triton' cannot run .* width up to 256, not 257"):
        resolve_backend("linear_attention", "triton", *place[2:], 257)
    table = hf_effattn.models.backend_table.backends("cuda", torch.float32, 257)
    assert table["linear_attention"] == table["linear_attention"] | {"torch": "chosen"}


@pytest.mark.usefixtures("toy_operator")
def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="already has a backend named 'slow'"):
        register_backend("toy", Backend("slow", min))


def test_no_automatic_backend_says_why(monkeypatch):
    monkeypatch.setattr(table, "_BACKENDS", {})
    register_backend("toy", Backend("oracle", sum, automatic=False))
    with pytest.raises(RuntimeError, match=r"no backend of 'toy' serves.*oracle: only runs when asked for by name"):
        resolve("auto")


@pytest.mark.parametrize("fuses_maps", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_a_backend_receives_the_call_as_it_was_made(monkeypatch, length, fuses_maps):
    """A feature map is the one thing that is taken out, where the backend does not run it itself."""
    received = []

    def function(query, key, value, call):
        received.append((query, call))
        return value, call.initial_state

    def step(*arguments):
        assert length == 1, "a step is for one token"
        return function(*arguments)

    monkeypatch.setattr(table, "_BACKENDS", {})
    register_backend("linear_attention", Backend("toy", function, step, fuses_maps=fuses_maps))
    rows = -torch.ones(1, 2, length, 4)
    options = {"key_mask": torch.ones(1, length, dtype=torch.bool), "causal": True, "normalize": False, "scale": 0.5}
    call = LinearAttentionCall(**options, eps=0.1, initial_state=torch.zeros(1, 2, 4, 4), feature_map=MapLayer("relu"))
    ops_linear.run_linear_attention(rows, rows, rows, call)
    query, given = received.pop()
    assert (given is call) == fuses_maps
    assert given == (call if fuses_maps else replace(call, feature_map=None))
    assert torch.equal(query, rows if fuses_maps else torch.zeros_like(rows))
