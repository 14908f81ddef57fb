"""Derivatives of every kind, torch.func's transforms, tensors without values: exact, or refused with the remedy."""

import gc
import weakref

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap

from hf_effattn.kernels.layers import LinearAttention
from hf_effattn.models.backend_table import resolve_backend
from hf_effattn.models.base_call import LinearAttentionCall
from hf_effattn.models.base_map_layer import MapLayer
from hf_effattn.models.ops_linear import linear_attention, linear_attention_step
from hf_effattn.models.ops_softmax import softmax_attention
from tests.models.variants import over_families, over_heads, random_ids, tiny_model
from tests.numerics import assert_close, relative_error


QUERY, KEY, VALUE, TANGENT = (torch.rand(1, 2, 9, 4, generator=torch.Generator().manual_seed(n)) for n in range(4))
WEIGHT = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(4))


def attend(query, backend="auto", **options):
    return linear_attention(query, KEY, VALUE, causal=True, backend=backend, **options)[0]


def step(query, backend="auto"):
    state = torch.ones(1, 2, 4, 5)
    return linear_attention_step(query[:, :, :1], KEY[:, :, :1], VALUE[:, :, :1], state, backend=backend)[0]


def mapped(query, backend="auto"):
    return attend(query, backend, feature_map=MapLayer("softplus", WEIGHT))


def softmax(query, backend="auto"):
    return softmax_attention(query, KEY, VALUE, causal=True, backend=backend)


def masked_softmax(query, backend="auto"):
    mask = torch.arange(9)[None] < 6
    return softmax_attention(query, KEY, VALUE, key_mask=mask, backend=backend)


over_operators = pytest.mark.parametrize("operator", [attend, step, mapped, softmax, masked_softmax])


@pytest.mark.compat
@over_operators
def test_forward_mode(operator):
    expected = jvp(lambda query: operator(query, "reference"), (QUERY,), (TANGENT,))[1]
    assert_close("torch.func.jvp", jvp(operator, (QUERY,), (TANGENT,))[1], expected)
    with forward_ad.dual_level():
        dual = operator(forward_ad.make_dual(QUERY, TANGENT))
        assert_close("forward_ad", forward_ad.unpack_dual(dual).tangent, expected)


@pytest.mark.compat
@over_operators
def test_transforms_of_torch_func(operator):
    """Reverse mode, the whole Hessian (forward over reverse), and gradients per row."""

    def loss(backend):
        return lambda query: operator(query, backend).square().sum()

    assert_close("grad", grad(loss("auto"))(QUERY), grad(loss("reference"))(QUERY))
    assert relative_error(hessian(loss("auto"))(QUERY), jacrev(grad(loss("reference")))(QUERY)) < 1e-4
    rows = torch.stack([QUERY, TANGENT])
    assert_close("vmap", vmap(grad(loss("auto")))(rows), torch.stack([grad(loss("reference"))(row) for row in rows]))


@pytest.mark.parametrize("operator", [attend, step, mapped])
def test_a_compiled_backend_by_name_says_what_serves(operator):
    with pytest.raises(RuntimeError, match=r"transforms .* cannot look into compiled kernels.*Use attention_backend"):
        grad(lambda query: operator(query, "cpu").sum())(QUERY)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"no forward-mode derivative.*=\"auto\""):
        operator(forward_ad.make_dual(QUERY, TANGENT), "cpu")
    assert resolve_backend("linear_attention", "auto", QUERY.device, QUERY.dtype).name == "cpu", "afterwards as before"


def test_the_layer_of_the_kernels_library_refuses_as_well():
    def layer(query, feature_map=None):
        return LinearAttention()(query, KEY, VALUE, LinearAttentionCall(causal=True, feature_map=feature_map))[0]

    assert_close("as the backend", layer(QUERY), attend(QUERY, "cpu"))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        layer(forward_ad.make_dual(QUERY, TANGENT))
    with pytest.raises(ValueError, match="on cpu and on meta"):
        layer(QUERY, MapLayer("softplus", WEIGHT.to("meta")))


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
@pytest.mark.parametrize("name", ["key", "value", "key_mask", "initial_state", "scale", "weight", "bias", "gate"])
def test_a_tensor_without_values_is_named(backend, name):
    """Torch would answer with the shape of the result, and whatever lies in its memory."""
    parameters = {"weight": WEIGHT, "bias": torch.zeros(2, 1, 4), "gate": WEIGHT}
    tensors = {"key": KEY, "value": VALUE, "key_mask": torch.ones(1, 9, dtype=torch.bool)}
    tensors |= {"initial_state": torch.zeros(1, 2, 4, 5), "scale": torch.tensor(0.5)}
    group = parameters if name in parameters else tensors
    group[name] = group[name].to("meta")
    with pytest.raises(ValueError, match=f"query is on cpu and {name} on meta"):
        linear_attention(QUERY, **tensors, feature_map=MapLayer("softplus", **parameters), backend=backend)
    if name in ("key", "value", "key_mask"):
        key_values = {part: tensors[part] for part in ("key", "value", "key_mask")}
        with pytest.raises(ValueError, match=f"query is on cpu and {name} on meta"):
            softmax_attention(QUERY, **key_values)


def test_shapes_are_found_without_values():
    output, state = linear_attention(*(rows.to("meta") for rows in (QUERY, KEY, VALUE)), scale=0.5)
    assert output.shape == VALUE.shape
    assert state.shape == (1, 2, 4, 5)


@pytest.mark.compat
@over_families
def test_second_derivatives_work_or_name_what_serves(family):
    """A gradient penalty; its first derivatives are there for all backends."""

    def penalty_gradient(backend):
        model = tiny_model(family, dtype=torch.float32, attention_backend=backend)
        embedded = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss = model(inputs_embeds=embedded).last_hidden_state.tanh().sum()
        (first,) = torch.autograd.grad(loss, embedded, create_graph=True)
        return first, lambda: torch.autograd.grad(first.square().sum(), embedded)[0]

    expected, second = penalty_gradient("reference")
    expected_second = second()
    assert expected_second.abs().sum() > 0
    first, unserved = penalty_gradient("auto")
    assert relative_error(first, expected) < 1e-4
    remedy = "torch" if family.model_class("AutoModel").attention_operator == "linear_attention" else "reference"
    with pytest.raises(RuntimeError, match=f'second derivatives.*attention_backend="{remedy}"'):
        unserved()
    first, served = penalty_gradient(remedy)
    assert relative_error(served(), expected_second) < 1e-3


def test_a_marked_output_is_freed_without_a_collection():
    """The mark on a graph must not keep it alive."""
    gc.disable()
    try:
        key = KEY.clone().requires_grad_()
        kept = weakref.ref(key)
        output = softmax_attention(QUERY, key, VALUE)
        assert output.grad_fn is not None
        del key, output
        assert kept() is None
    finally:
        gc.enable()


@over_families
def test_forward_mode_of_models(family):
    """The kind of fault to find here: a derivative from which attention is missing, without an error."""
    embedded, tangent = torch.randn(2, 2, 7, 24, generator=torch.Generator().manual_seed(0))
    found = []
    for backend in ("auto", "reference"):
        model = tiny_model(family, dtype=torch.float32, attention_backend=backend).requires_grad_(False)

        def states(embeds, model=model):
            return model(inputs_embeds=embeds).last_hidden_state

        found.append(jvp(states, (embedded,), (tangent,))[1])
    assert relative_error(*found) < 1e-5


@over_heads("AutoModelForSequenceClassification", "AutoModelForCausalLM")
def test_gradients_per_row_of_ids(family, auto_class):
    model = tiny_model(family, auto_class)
    ids = random_ids(3, 6)
    labels = ids if auto_class == "AutoModelForCausalLM" else torch.tensor([0, 1, 1])
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters, row, label):
        mask = torch.ones_like(row)[None]
        inputs = {"input_ids": row[None], "attention_mask": mask, "labels": label[None]}
        return functional_call(model, parameters, kwargs=inputs).loss

    together = vmap(grad(loss), (None, 0, 0))(parameters, ids, labels)
    for index in range(3):
        alone = torch.autograd.grad(
            model(ids[index : index + 1], labels=labels[index : index + 1]).loss,
            list(model.parameters()),
            allow_unused=True,
        )
        for (name, rows), one in zip(together.items(), alone, strict=True):
            expected = torch.zeros_like(rows[index]) if one is None else one
            torch.testing.assert_close(rows[index], expected, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_the_gradient_of_a_scale_is_summed_in_single_precision(dtype, causal):
    """However far the products that it is a sum of cancel out."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        rows = [torch.randn(1, 3, 63, dim, generator=generator).to(dtype) for dim in (16, 16, 64)]
        of_output = torch.randn(1, 3, 63, 64, generator=generator).to(dtype)

        def gradient(backend, exact, rows=rows, of_output=of_output):
            scale = torch.tensor([0.7], dtype=torch.float64 if exact else torch.float32, requires_grad=True)
            tensors = [part.double() for part in rows] if exact else rows
            output, _ = linear_attention(*tensors, causal=causal, normalize=False, scale=scale, backend=backend)
            assert output.dtype == (torch.float64 if exact else dtype)
            return torch.autograd.grad(output, scale, of_output.to(output.dtype))[0]

        assert relative_error(gradient("cpu", False), gradient("reference", True)) < 2e-4


def test_a_scale_that_needs_no_gradient_here_stays_with_the_kernels(monkeypatch):
    from hf_effattn.kernels import linear

    given = []
    operator = linear.operator
    monkeypatch.setattr(linear, "operator", lambda query, *rest: given.append(query.dtype) or operator(query, *rest))
    scale = torch.tensor([0.7], requires_grad=True)
    half = [part.bfloat16() for part in (QUERY, KEY, VALUE)]
    with torch.no_grad():
        linear_attention(*half, scale=scale, backend="cpu")
    linear_attention(*half, scale=scale, backend="cpu")
    assert given == [torch.bfloat16, torch.float32]
