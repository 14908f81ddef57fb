"""Packing and unpacking against their equations, entry by entry, with all gradients."""

import pytest
import torch

import hf_effattn
from tests.numerics import assert_close


pytestmark = pytest.mark.compat


MASKS = {"none": None, "padded": [[1] * 9, [0] * 4 + [1] * 5], "empty row": [[1] * 9, [0] * 9]}


def tensors(cells, tokens, dtype=torch.float64):
    generator = torch.Generator().manual_seed(cells + tokens)
    shapes = [(2, cells, 3, 4), (2, tokens, 3, 4), (2, tokens, 3, 4)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [part.transpose(1, 2).requires_grad_() for part in made]


def attention(query, key, value, temperature, mask):
    """``sum_m exp(q . k_m / tau) v_m / sum_m exp(q . k_m / tau)`` over the real keys, one output at a time."""
    output = []
    for row in range(query.shape[0]):
        keys = [m for m in range(key.shape[2]) if mask is None or mask[row, m]]
        for head in range(query.shape[1]):
            for q in query[row, head]:
                weights = torch.stack([(q @ key[row, head, m] / temperature).exp() for m in keys]) if keys else None
                read = (
                    q * 0
                    if weights is None
                    else sum(w * value[row, head, m] for w, m in zip(weights, keys, strict=True))
                )
                output.append(read if weights is None else read / weights.sum())
    return torch.stack(output).unflatten(0, query.shape[:3])


def gradients(output, inputs):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.autograd.grad((output * weights).sum(), inputs, allow_unused=True)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("cells", [1, 5])
def test_packing(backend, mask, cells):
    query, key, value = tensors(cells, 9)
    tau = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    mask = None if MASKS[mask] is None else torch.tensor(MASKS[mask], dtype=torch.bool)
    got = hf_effattn.pack_attention(query, key, value, temperature=tau, key_mask=mask, backend=backend)
    wanted = attention(query, key, value, tau, mask)
    assert_close("packed", got, wanted)
    inputs = [query, key, value, tau]
    for name, pair in zip("qkvt", zip(gradients(got, inputs), gradients(wanted, inputs), strict=True), strict=True):
        assert_close(f"gradient of {name}", *pair)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("tokens", [1, 9])
def test_unpacking(backend, tokens):
    key, query, _ = tensors(5, tokens)
    value = tensors(5, tokens + 1)[0]
    tau = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    got = hf_effattn.unpack_attention(query, key, value, temperature=tau, backend=backend)
    wanted = attention(query, key, value, tau, None)
    assert_close("unpacked", got, wanted)
    inputs = [query, key, value, tau]
    for name, pair in zip("qkvt", zip(gradients(got, inputs), gradients(wanted, inputs), strict=True), strict=True):
        assert_close(f"gradient of {name}", *pair)


def test_half_precision_follows_double():
    exact = hf_effattn.pack_attention(*tensors(5, 9), temperature=2.0)
    rounded = hf_effattn.pack_attention(*tensors(5, 9, torch.bfloat16), temperature=2.0)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.05
