"""Linear attention against the float64 oracle: output, state, and every gradient."""

import itertools

import pytest
import torch

from hf_effattn.models.backend_table import backend_names
from hf_effattn.models.backend_torch import CHUNK_LENGTH
from hf_effattn.models.base_call import LinearAttentionCall
from hf_effattn.models.ops_attention_maps import linear_attention_map
from hf_effattn.models.ops_linear import LINEAR_ATTENTION, linear_attention, linear_attention_step
from hf_effattn.models.ops_reference import reference_linear_attention
from tests.numerics import assert_close


pytestmark = pytest.mark.usefixtures("poisoned_scratch")

#: Triton has a file of its own, since it runs in its interpreter here.
BACKENDS = [name for name in backend_names(LINEAR_ATTENTION) if name not in ("auto", "reference", "triton")]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
#: float64 is for the plain backend.
BACKENDS_AND_DTYPES = [(name, dtype) for name in BACKENDS for dtype in DTYPES if (name, dtype) != ("cpu", DTYPES[0])]
LENGTHS = [1, 2, 63, CHUNK_LENGTH, CHUNK_LENGTH + 1, 300]
#: Large, because a query that sees a single key reads ``v / (1 + eps / qk)``: with a small epsilon its gradient is
#: the difference of two nearly equal numbers, and no measure of accuracy.
EPS = 0.1
FORMS = list(itertools.product([False, True], [False, True]))
FORM_NAMES = [f"{'causal' if c else 'full'}-{'normalized' if n else 'plain'}" for c, n in FORMS]


def make_inputs(length, dtype=torch.float64, normalize=True, batch=2, heads=3, features=5, dim=7, state=False):
    """Query, key, value and maybe a state; with `normalize` the features are positive, as they have to be."""
    shape = (batch, heads, length)
    query, key = torch.randn(2, *shape, features, dtype=torch.float64)
    if normalize:
        query, key = torch.nn.functional.softplus(query), torch.nn.functional.softplus(key)
    value = torch.randn(*shape, dim, dtype=torch.float64)
    inputs = {"query": query, "key": key, "value": value}
    if state:
        inputs["initial_state"] = torch.rand(batch, heads, features, dim + normalize, dtype=torch.float64)
    # Rounded to the dtype first, so that the oracle sees the same numbers.
    return {name: tensor.to(dtype) for name, tensor in inputs.items()}


def make_mask(length, batch=2):
    mask = torch.rand(batch, length) < 0.7
    mask[0, 0] = True
    return mask


def outputs_and_gradients(function, inputs, **options):
    """Outputs, then the gradients of a fixed random combination of them, by name."""
    inputs = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    output, state = function(**inputs, **options)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (output, state)]
    loss = (output * weights[0]).double().sum() + (state * weights[1]).double().sum()
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    named = {f"gradient of {name}": gradient for name, gradient in zip(inputs, gradients, strict=True)}
    return {"output": output, "state": state, **named}


def compare_with_oracle(inputs, dtype, backend, **options):
    oracle = {name: tensor.double() for name, tensor in inputs.items()}
    expected = outputs_and_gradients(reference_linear_attention, oracle, **options)
    actual = outputs_and_gradients(linear_attention, inputs, backend=backend, **options)
    for name, tensor in actual.items():
        assert_close(name, tensor, expected[name], dtype)
    assert actual["output"].dtype == dtype
    assert actual["state"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.compat
@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("backend", "dtype"), BACKENDS_AND_DTYPES, ids=str)
def test_equals_oracle(backend, causal, normalize, length, dtype):
    inputs = make_inputs(length, dtype, normalize)
    compare_with_oracle(inputs, dtype, backend, causal=causal, normalize=normalize, eps=EPS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("length", [1, 63, 200])
def test_mask_scale_and_state_equal_oracle(backend, causal, normalize, length):
    inputs = make_inputs(length, torch.float32, normalize, state=True)
    scale = torch.rand(2, 1, length, 1) + 0.5
    compare_with_oracle(
        inputs,
        torch.float32,
        backend,
        causal=causal,
        normalize=normalize,
        key_mask=make_mask(length),
        scale=scale,
        eps=EPS,
    )


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_fully_masked_row_gives_zeros_and_finite_gradients(backend, causal, normalize, eps):
    mask = make_mask(70)
    mask[1] = False
    options = {"causal": causal, "normalize": normalize, "key_mask": mask, "eps": eps}
    result = outputs_and_gradients(
        linear_attention, make_inputs(70, torch.float32, normalize), backend=backend, **options
    )
    assert torch.equal(result["output"][1], torch.zeros_like(result["output"][1]))
    assert torch.equal(result["state"][1], torch.zeros_like(result["state"][1]))
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
def test_masked_content_changes_nothing(backend, causal, normalize):
    mask, inputs = make_mask(150), make_inputs(150, torch.float32, normalize)
    other = {name: torch.where(mask[:, None, :, None], tensor, tensor + 9) for name, tensor in inputs.items()}
    other["query"] = inputs["query"]
    options = {"causal": causal, "normalize": normalize, "key_mask": mask, "backend": backend}
    for actual, expected in zip(
        linear_attention(**other, **options), linear_attention(**inputs, **options), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
def test_any_strides(backend, causal, normalize):
    inputs = make_inputs(140, torch.float32, normalize)
    strided = {name: tensor.transpose(1, 2).contiguous().transpose(1, 2) for name, tensor in inputs.items()}
    assert not strided["query"].is_contiguous()
    options = {"causal": causal, "normalize": normalize, "backend": backend}
    assert_close("output", linear_attention(**strided, **options)[0], linear_attention(**inputs, **options)[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("cut", [1, 64, CHUNK_LENGTH, 199])
def test_split_and_resume(backend, normalize, cut):
    """A sequence in two parts, the state carried over, gives the outputs and gradients of the whole."""

    def in_two_parts(query, key, value, **options):
        head = [tensor[:, :, :cut] for tensor in (query, key, value)]
        tail = [tensor[:, :, cut:] for tensor in (query, key, value)]
        first, state = linear_attention(*head, **options)
        second, state = linear_attention(*tail, initial_state=state, **options)
        return torch.cat([first, second], dim=2), state

    inputs = make_inputs(200, torch.float32 if backend == "cpu" else torch.float64, normalize)
    options = {"causal": True, "normalize": normalize, "backend": backend}
    whole = outputs_and_gradients(linear_attention, inputs, **options)
    parts = outputs_and_gradients(in_two_parts, inputs, **options)
    for name, tensor in parts.items():
        assert_close(name, tensor, whole[name])


@pytest.mark.compat
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("backend", "dtype"), BACKENDS_AND_DTYPES, ids=str)
def test_steps_equal_whole(backend, normalize, dtype):
    inputs, mask = make_inputs(40, dtype, normalize), make_mask(40)

    def step_by_step(query, key, value, key_mask):
        state = query.new_zeros(
            2, 3, 5, 7 + normalize, dtype=torch.float64 if dtype == torch.float64 else torch.float32
        )
        outputs = []
        options = {"normalize": normalize, "backend": backend}
        for n in range(query.shape[2]):
            one = [tensor[:, :, n : n + 1] for tensor in (query, key, value)]
            output, state = linear_attention_step(*one, state, key_mask=key_mask[:, n : n + 1], **options)
            outputs.append(output)
        return torch.cat(outputs, dim=2), state

    oracle = {name: tensor.double() for name, tensor in inputs.items()}
    expected = outputs_and_gradients(
        reference_linear_attention, oracle, causal=True, normalize=normalize, key_mask=mask
    )
    actual = outputs_and_gradients(step_by_step, inputs, key_mask=mask)
    for name, tensor in actual.items():
        assert_close(name, tensor, expected[name], dtype)


@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
def test_implied_map_times_value_is_the_output(causal, normalize):
    inputs, mask = make_inputs(50, normalize=normalize), make_mask(50)
    options = {"causal": causal, "normalize": normalize, "key_mask": mask, "scale": 0.3}
    weights = linear_attention_map(inputs["query"], inputs["key"], LinearAttentionCall(**options))
    expected, _ = reference_linear_attention(**inputs, **options)
    assert_close("map @ value", weights @ inputs["value"], expected)


def test_one_constant_feature_is_the_mean():
    value = torch.randn(1, 1, 10, 4, dtype=torch.float64)
    ones = torch.ones(1, 1, 10, 1, dtype=torch.float64)
    output, _ = linear_attention(ones, ones, value, eps=0.0)
    assert_close("mean", output, value.mean(2, keepdim=True).expand_as(value))
    output, _ = linear_attention(ones, ones, value, causal=True, eps=0.0)
    running = value.cumsum(2) / torch.arange(1, 11)[:, None]
    assert_close("running mean", output, running)


@pytest.mark.parametrize("causal", [False, True])
def test_gradcheck(causal):
    inputs = make_inputs(6, batch=1, heads=1, features=2, dim=3, state=True)
    tensors = tuple(tensor.requires_grad_() for tensor in inputs.values())
    assert torch.autograd.gradcheck(
        lambda q, k, v, s: linear_attention(q, k, v, initial_state=s, causal=causal), tensors
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_bf16_at_long_length_keeps_its_denominator(backend, causal):
    """elu + 1 features overflow a half-precision sum near a thousand tokens; the float32 state does not."""
    length = 65_536
    query, key = (torch.nn.functional.elu(torch.randn(1, 1, length, 32)) + 1 for _ in range(2))
    value = torch.randn(1, 1, length, 32)
    low = [tensor.bfloat16().requires_grad_() for tensor in (query, key, value)]
    output, _ = linear_attention(*low, causal=causal, backend=backend)
    output.sum().backward()
    exact, _ = linear_attention(*(tensor.detach().double() for tensor in low), causal=causal)
    assert_close("output", output, exact)
    assert all(torch.isfinite(tensor.grad).all() for tensor in low)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_lower_the_accumulation(backend):
    inputs = make_inputs(300, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = linear_attention(**inputs, causal=True, backend=backend)
    expected, expected_state = linear_attention(**inputs, causal=True, backend=backend)
    assert torch.equal(output, expected)
    assert torch.equal(state, expected_state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_acts_on_the_state(backend):
    inputs = make_inputs(30, torch.float32, normalize=False, batch=1, heads=1)
    options = {"normalize": False, "dropout_p": 0.5, "backend": backend}
    outputs = torch.stack([linear_attention(**inputs, **options)[0] for _ in range(4000)])
    expected, _ = linear_attention(**inputs, normalize=False)
    error = (outputs.mean(0) - expected).abs() / (outputs.std(0) / len(outputs) ** 0.5)
    assert error.max() < 5, "dropout keeps the expectation"
    # A dropped entry of the state is dropped for all queries: the 30 outputs span no more than the 5 features.
    assert torch.linalg.matrix_rank(outputs[0, 0, 0]) <= 5


@pytest.mark.parametrize(("causal", "normalize"), [(True, False), (False, True)])
def test_dropout_is_refused_where_it_is_not_defined(causal, normalize):
    with pytest.raises(ValueError, match="only defined for causal=False and normalize=False"):
        linear_attention(**make_inputs(4), causal=causal, normalize=normalize, dropout_p=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_empty_batch_gives_an_empty_output(backend, causal):
    inputs = {name: tensor[:0] for name, tensor in make_inputs(4, torch.float32).items()}
    output, state = linear_attention(**inputs, causal=causal, backend=backend)
    assert output.shape == (0, 3, 4, 7)
    assert state.shape == (0, 3, 5, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.ones(2, 3, 4)}, "takes query and key"),
        ({"key": torch.ones(2, 3, 4, 6)}, "takes query and key"),
        ({"value": torch.ones(2, 3, 5, 7)}, "takes query and key"),
        (
            {"query": torch.ones(2, 3, 0, 5), "key": torch.ones(2, 3, 0, 5), "value": torch.ones(2, 3, 0, 7)},
            "length 0",
        ),
        ({"key_mask": torch.ones(2, 4)}, "must be bool"),
        ({"key_mask": torch.ones(2, 5, dtype=torch.bool)}, r"must be \[batch, keys\]"),
        ({"key_mask": torch.ones(2, 4, 4, dtype=torch.bool)}, "no linear form"),
        ({"initial_state": torch.ones(2, 3, 5, 7)}, "the state of linear attention"),
        ({"backend": "cuda"}, "unknown attention_backend 'cuda'"),
    ],
)
def test_bad_arguments_meet_a_clear_error(change, message):
    arguments = {name: tensor.float() for name, tensor in make_inputs(4).items()} | change
    with pytest.raises(ValueError, match=message):
        linear_attention(**arguments)


def test_step_refuses_more_than_one_token():
    inputs = make_inputs(2)
    with pytest.raises(ValueError, match="takes one token, got 2"):
        linear_attention_step(**inputs, state=torch.zeros(2, 3, 5, 8))


@pytest.mark.compat
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("causal", "normalize"), FORMS, ids=FORM_NAMES)
def test_traces_without_graph_breaks(backend, causal, normalize):
    inputs = make_inputs(200, torch.float32, normalize)
    traced = torch.compile(linear_attention, fullgraph=True, backend="aot_eager")
    actual, _ = traced(**inputs, causal=causal, normalize=normalize, backend=backend)
    expected, _ = linear_attention(**inputs, causal=causal, normalize=normalize)
    assert_close("output", actual, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("causal", [False, True])
def test_one_graph_serves_many_lengths(backend, causal):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    traced = torch.compile(linear_attention, fullgraph=True, backend=count, dynamic=True)
    for length in (150, 200, 333, 1000, 129):
        traced(**make_inputs(length, torch.float32), causal=causal, backend=backend)
    assert len(graphs) == 1
