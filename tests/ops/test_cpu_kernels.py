"""What only the compiled kernels do: fused feature maps, wide heads, blocks, and torch's contracts for operators."""

import pytest
import torch

from hf_effattn.kernels import INTERFACE, ops
from hf_effattn.models import backend_cpu
from hf_effattn.models.base_map_layer import ACTIVATIONS, MapLayer
from hf_effattn.models.ops_linear import linear_attention, linear_attention_step
from hf_effattn.models.ops_reference import reference_linear_attention
from tests.numerics import assert_close, relative_error
from tests.ops.test_ops_linear import EPS, FORM_NAMES, FORMS, make_inputs, make_mask


pytestmark = pytest.mark.usefixtures("poisoned_scratch")

#: Width of heads, features, width of values: below, at and beyond a vector, a tile and a panel of the products.
SIZES = [(1, 1, 1), (16, 16, 16), (24, 40, 33), (64, 64, 64), (40, 130, 72)]
PARAMETERS = {"weight": ("weight",), "bias": ("weight", "bias"), "gate": ("weight", "gate")}
PARAMETERS["all"] = ("weight", "bias", "gate")


def make_map(activation, dim, features, names, heads=3):
    shapes = {"weight": (heads, dim, features), "bias": (heads, 1, features), "gate": (heads, dim, features)}
    return {name: torch.randn(shapes[name]) / dim**0.5 for name in names}, activation


def mapped(function, parameters, activation, inputs, **options):
    """Outputs and all gradients of `function`, those of the map's parameters among them."""
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in {**inputs, **parameters}.items()}
    feature_map = MapLayer(activation, **{name: tensors[name] for name in parameters})
    rows = {name: tensors[name] for name in inputs}
    output, state = function(feature_map, rows, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (output, state)]
    loss = (output * weights[0]).double().sum() + (state * weights[1]).double().sum()
    gradients = torch.autograd.grad(loss, list(tensors.values()))
    named = {f"gradient of {name}": gradient for name, gradient in zip(tensors, gradients, strict=True)}
    return {"output": output, "state": state, **named}


def fused(feature_map, rows, **options):
    return linear_attention(**rows, feature_map=feature_map, backend="cpu", **options)


def oracle(feature_map, rows, **options):
    rows = rows | {name: feature_map(rows[name]) for name in ("query", "key")}
    return reference_linear_attention(**rows, **options)


def compare_maps(parameters, activation, inputs, **options):
    dtype = inputs["query"].dtype
    actual = mapped(fused, parameters, activation, inputs, **options)
    exact = [{name: tensor.double() for name, tensor in tensors.items()} for tensors in (parameters, inputs)]
    expected = mapped(oracle, exact[0], activation, exact[1], **options)
    for name, tensor in actual.items():
        assert_close(name, tensor, expected[name], dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("names", [(), *PARAMETERS.values()], ids=["plain", *PARAMETERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_maps_equal_oracle(causal, activation, names, dtype):
    normalize = activation in ("elu", "softplus")
    dim, features = 24, 40 if names else 24
    parameters, _ = make_map(activation, dim, features, names)
    inputs = make_inputs(70, dtype, normalize=False, features=dim, dim=33)
    inputs["initial_state"] = torch.rand(2, 3, features, 33 + normalize)
    options = {"causal": causal, "normalize": normalize, "eps": EPS, "key_mask": make_mask(70)}
    compare_maps(parameters, activation, inputs, scale=torch.rand(2, 1, 70, 1) + 0.5, **options)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("names", [(), ("weight", "gate")], ids=["plain", "gate"])
def test_activations_of_what_is_no_number(activation, names):
    """NaN and zeros, and where no sums mix them infinities, have the features of torch, and its gradients."""
    parameters, _ = make_map(activation, 8, 8, names)
    inputs = make_inputs(9, torch.float32, normalize=False, features=8, dim=5)
    values = [float("nan"), 0.0] + ([] if names else [float("inf"), -float("inf")])
    inputs["query"][0, 0, : len(values), 0] = torch.tensor(values)
    found = []
    for backend in ("cpu", "torch"):
        tensors = {name: tensor.clone().requires_grad_() for name, tensor in inputs.items()}
        feature_map = MapLayer(activation, **parameters)
        output, _ = linear_attention(**tensors, normalize=False, feature_map=feature_map, backend=backend)
        found.append([output, *torch.autograd.grad(output[:, :, 1:].sum() + output[0, 0, 0].sum(), tensors.values())])
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize(("dim", "features", "value_dim"), SIZES)
def test_any_width(causal, normalize, dim, features, value_dim):
    parameters, activation = make_map("softplus", dim, features, PARAMETERS["gate"])
    inputs = make_inputs(130, torch.float32, normalize=False, features=dim, dim=value_dim)
    compare_maps(parameters, activation, inputs, causal=causal, normalize=normalize, eps=EPS)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("length", [2048, 2049, 33_000])
def test_blocks_of_a_long_sequence_add_up(threads, length):
    """A bidirectional sequence is divided among tasks; the division shows in neither result nor gradients."""
    inputs = make_inputs(length, torch.float32, batch=1, heads=2, features=3, dim=4, state=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        names = list(inputs)
        tensors = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
        exact = {name: tensor.detach().double().requires_grad_() for name, tensor in inputs.items()}
        actual, state = linear_attention(**tensors, eps=EPS, backend="cpu")
        expected, expected_state = linear_attention(**exact, eps=EPS, backend="torch")
        weights = torch.randn(actual.shape)
        found = torch.autograd.grad((actual * weights).sum() + state.sum(), list(tensors.values()))
        wanted = torch.autograd.grad((expected * weights).sum() + expected_state.sum(), list(exact.values()))
    finally:
        torch.set_num_threads(before)
    assert_close("output", actual, expected)
    assert_close("state", state, expected_state)
    for name, gradient, exact_gradient in zip(names, found, wanted, strict=True):
        assert_close(f"gradient of {name}", gradient, exact_gradient)


@pytest.mark.parametrize("causal", [False, True])
def test_neither_threads_nor_batch_change_a_bit(causal):
    inputs = make_inputs(300, torch.float32, batch=3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = linear_attention(**{k: t[1:2] for k, t in inputs.items()}, causal=causal, backend="cpu")
        torch.set_num_threads(2)
        together, _ = linear_attention(**inputs, causal=causal, backend="cpu")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone[0], together[1])


@pytest.mark.parametrize("causal", [False, True])
def test_heads_side_by_side_in_memory_stay_so(causal):
    """Heads that are views of ``[B, N, H * d]`` give outputs and gradients that are: joining them copies nothing."""
    heads = [torch.randn(2, 50, 3 * 8).unflatten(-1, (3, 8)).transpose(1, 2).requires_grad_() for _ in range(3)]
    output, _ = linear_attention(*heads, causal=causal, normalize=False, backend="cpu")
    assert output.transpose(1, 2).is_contiguous()
    for gradient in torch.autograd.grad(output.sum(), heads):
        assert gradient.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("causal", [False, True])
def test_nan_in_one_row_stays_there(causal):
    """The rows of a batch pass through the same buffers."""
    inputs = {name: tensor.requires_grad_() for name, tensor in make_inputs(70, torch.float32, heads=1).items()}
    poison = torch.zeros(2, 1, 70, 1)
    poison[0] = float("nan")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        output, _ = linear_attention(*(tensor + poison for tensor in inputs.values()), causal=causal, backend="cpu")
        gradients = torch.autograd.grad(output.sum(), list(inputs.values()))
    finally:
        torch.set_num_threads(before)
    assert torch.isnan(output[0]).all()
    assert all(torch.isfinite(tensor[1]).all() for tensor in (output, *gradients))


def test_other_dtypes_beside_the_queries():
    inputs = make_inputs(20, torch.float32)
    expected, _ = linear_attention(**inputs, backend="cpu")
    inputs["key"], inputs["value"] = inputs["key"].double(), inputs["value"].double()
    assert_close("output", linear_attention(**inputs, backend="cpu")[0], expected)


def test_scale_may_need_a_gradient():
    inputs = make_inputs(20, torch.float32)
    scale = torch.rand(2, 3, 20, 1, requires_grad=True)
    output, _ = linear_attention(**inputs, scale=scale, backend="cpu")
    unscaled, _ = linear_attention(**inputs, backend="cpu")
    (gradient,) = torch.autograd.grad(output.sum(), scale)
    assert_close("gradient of scale", gradient, unscaled.sum(-1, keepdim=True))


def test_fused_step_equals_oracle():
    parameters, activation = make_map("softplus", 5, 6, PARAMETERS["gate"])
    inputs = make_inputs(1, torch.float32, state=False)
    feature_map, state = MapLayer(activation, **parameters), torch.rand(2, 3, 6, 8)
    output, after = linear_attention_step(**inputs, state=state, feature_map=feature_map, backend="cpu")
    expected, expected_after = oracle(feature_map, inputs | {"initial_state": state}, causal=True)
    assert_close("output", output, expected)
    assert_close("state", after, expected_after)


def operator_arguments(full, strided, causal):
    """Arguments of the operator, with and without every optional tensor."""
    rows = [*torch.rand(2, 2, 3, 70, 8).unbind(), torch.randn(2, 3, 70, 5)]
    rows = [t.transpose(1, 2).contiguous().transpose(1, 2) if strided else t for t in rows]
    parameters = [torch.randn(3, 8, 8), torch.randn(3, 1, 8), torch.randn(3, 8, 8)]
    state = torch.rand(2, 3, 8, 6)
    leaves = [t.detach().requires_grad_() for t in (*rows, state, *parameters)]
    if not full:
        return (*leaves[:3], *[None] * 7, "identity", causal, True, 0.1, 0.5)
    mask, scale = make_mask(70), torch.rand(2, 1, 70).expand(2, 3, 70)
    keep = None if causal else torch.rand(2, 3, 8, 6)
    return (*leaves[:3], mask, scale, leaves[3], keep, *leaves[4:], "softplus", causal, True, 0.1, 0.5)


@pytest.mark.parametrize("full", [False, True], ids=["bare", "full"])
@pytest.mark.parametrize("strided", [False, True], ids=["dense", "strided"])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_the_operator_keeps_torchs_contract(full, strided, causal):
    arguments = operator_arguments(full, strided, causal)
    torch.library.opcheck(ops.linear_attention, arguments, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_exports_with_dynamic_length(causal):
    class Attend(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 5, 6))

        def forward(self, query, key, value):
            feature_map = MapLayer("softplus", self.weight)
            return linear_attention(query, key, value, causal=causal, feature_map=feature_map, backend="cpu")[0]

    module = Attend().eval()
    length = torch.export.Dim("length", min=2, max=4096)
    shapes = {name: {2: length} for name in ("query", "key", "value")}
    inputs = make_inputs(40, torch.float32)
    program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
    graphs = [module.graph for module in program.graph_module.modules() if hasattr(module, "graph")]
    assert "hf_effattn_kernels.linear" in " ".join(str(node.target) for graph in graphs for node in graph.nodes)
    longer = make_inputs(333, torch.float32)
    assert_close("output", program.module()(*longer.values()), module(*longer.values()))


def test_second_derivative_is_refused():
    inputs = {name: tensor.requires_grad_() for name, tensor in make_inputs(4, torch.float32).items()}
    output, _ = linear_attention(**inputs, backend="cpu")
    (gradient,) = torch.autograd.grad(output.sum(), inputs["query"], create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_what_the_kernels_cannot_serve_says_so(monkeypatch):
    assert backend_cpu.INTERFACE == INTERFACE
    inputs = make_inputs(4)
    with pytest.raises(RuntimeError, match=r"take float32 and bfloat16, not torch\.float64"):
        linear_attention(**inputs, backend="cpu")
    backend_cpu._missing_kernels.cache_clear()
    monkeypatch.setattr("hf_effattn.kernels.INTERFACE", 99)
    with pytest.raises(RuntimeError, match="interface 99, this checkpoint's code needs 2"):
        linear_attention(**make_inputs(4, torch.float32), backend="cpu")
    backend_cpu._missing_kernels.cache_clear()
    refused = torch.empty(1, 1, 1, 1, device="meta")
    with pytest.raises(RuntimeError, match="it runs on the CPU"):
        linear_attention(refused, refused, refused, backend="cpu")


@pytest.mark.parametrize("causal", [False, True])
def test_sums_over_a_million_tokens(causal):
    """Equal terms are the worst case: all of their roundings go the same way."""
    tokens = torch.ones(1, 1, 2**20, 1)
    query, key, value = 0.7 * tokens, 0.9 * tokens, 1.1 * tokens
    output, state = linear_attention(query, key, value, causal=causal, normalize=False, backend="cpu")
    seen = torch.arange(1, 2**20 + 1)[None, None, :, None] if causal else 2**20
    one = float(key[0, 0, 0, 0]) * float(value[0, 0, 0, 0])
    assert abs(state.item() / (one * 2**20) - 1) < 1e-3
    assert (output.double() / (float(query[0, 0, 0, 0]) * one * seen) - 1).abs().max() < 1e-3


@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
def test_gradients_over_half_a_million_tokens(causal, normalize):
    """With a denominator those of queries and keys are what rounding leaves of zero, since all values are equal."""
    found = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "torch")):
        tokens = torch.ones(1, 1, 2**19, 1, dtype=dtype)
        rows = [(factor * tokens).requires_grad_() for factor in (0.7, 0.9, 1.1)]
        output, _ = linear_attention(*rows, causal=causal, normalize=normalize, backend=backend)
        loss = (output * torch.linspace(0, 1, 2**19, dtype=dtype)[:, None]).sum()
        found.append([output.detach(), *torch.autograd.grad(loss, rows[2:] if normalize else rows)])
    for actual, expected in zip(*found, strict=True):
        assert relative_error(actual, expected) < 5e-4


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_small_denominators(causal):
    """The inverse of their squares is beyond float32, the gradients are not."""
    inputs = make_inputs(9, torch.float32)
    inputs["query"] = inputs["query"] * 1e-25
    found = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "torch")):
        rows = [tensor.to(dtype).requires_grad_() for tensor in inputs.values()]
        output, _ = linear_attention(*rows, causal=causal, eps=1e-32, backend=backend)
        query, key, value = torch.autograd.grad(output.square().sum(), rows)
        found.append([output.detach(), query * 1e-25, key, value])
    for actual, expected in zip(*found, strict=True):
        assert relative_error(actual, expected) < 1e-5
