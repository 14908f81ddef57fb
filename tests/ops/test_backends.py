import pytest
import torch

import hf_effattn
from hf_effattn.models import backend_table as table
from hf_effattn.models import ops_linear, ops_softmax  # noqa: F401, register their backends before a test hides them
from hf_effattn.models.backend_table import Backend, register_backend, resolve_backend


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
