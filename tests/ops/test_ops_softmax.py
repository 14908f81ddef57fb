"""Softmax attention against the float64 oracle."""

import pytest
import torch

from hf_effattn.models.ops_attention_maps import softmax_attention_map
from hf_effattn.models.ops_reference import reference_softmax_attention
from hf_effattn.models.ops_softmax import softmax_attention
from tests.numerics import assert_close


pytestmark = pytest.mark.compat


def make_inputs(queries, keys, dtype=torch.float64):
    shapes = ((2, 3, queries, 8), (2, 3, keys, 8), (2, 3, keys, 6))
    return [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


def outputs_and_gradients(function, tensors, **options):
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*tensors, **options)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    gradients = torch.autograd.grad((output * weight).double().sum(), tensors)
    return dict(zip(("output", "query", "key", "value"), (output, *gradients), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (63, 63), (1, 20), (7, 20)])
def test_equals_oracle(dtype, causal, masked, queries, keys):
    inputs = make_inputs(queries, keys, dtype)
    mask = None
    if masked:
        mask = torch.rand(2, keys) < 0.6
        mask[0, 0] = True
    options = {"causal": causal, "key_mask": mask}
    expected = outputs_and_gradients(reference_softmax_attention, [t.double() for t in inputs], **options)
    actual = outputs_and_gradients(softmax_attention, inputs, **options)
    for name, tensor in actual.items():
        # softmax rounds its weights to the dtype as well as its sums
        assert_close(name, tensor, expected[name], dtype)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("causal", [False, True])
def test_query_without_keys_reads_zeros(backend, causal):
    inputs = make_inputs(9, 9, torch.float32)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0] = False
    mask[1, :4] = False
    result = outputs_and_gradients(softmax_attention, inputs, key_mask=mask, causal=causal, backend=backend)
    assert torch.equal(result["output"][0], torch.zeros_like(result["output"][0]))
    if causal:
        assert torch.equal(result["output"][1, :, :4], torch.zeros_like(result["output"][1, :, :4]))
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


def test_map_rows_are_distributions_over_visible_keys():
    query, key, _ = make_inputs(5, 8)
    weights = softmax_attention_map(query, key, causal=True)
    assert_close("sums", weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert torch.equal(weights.triu(4), torch.zeros_like(weights))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((2, 3, 4, 8), (2, 3, 4, 7), (2, 3, 4, 6)), {}, "takes query"),
        (((2, 3, 0, 8), (2, 3, 4, 8), (2, 3, 4, 6)), {}, "length 0"),
        (((2, 3, 5, 8), (2, 3, 4, 8), (2, 3, 4, 6)), {"causal": True}, "5 queries for 4 keys"),
        (((2, 3, 4, 8), (2, 3, 4, 8), (2, 3, 4, 6)), {"key_mask": torch.ones(2, 4)}, "must be bool"),
    ],
)
def test_bad_arguments_meet_a_clear_error(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        softmax_attention(*(torch.randn(shape) for shape in shapes), **options)
