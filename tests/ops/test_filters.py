"""Filters against the window-by-window reference, and what they promise on their own."""

import pytest
import torch

from hf_effattn.models.layer_filters import KeyValueFilter
from hf_effattn.models.ops_reference import reference_filter
from tests.numerics import assert_close


KINDS = ["conv", "max_pool", "avg_pool"]
MASKS = {
    "none": None,
    "right": [[1] * 11, [1] * 6 + [0] * 5, [1] + [0] * 10, [0] * 11],
    "left": [[1] * 11, [0] * 5 + [1] * 6, [0] * 10 + [1], [0] * 11],
    "holes": [[1, 0] * 5 + [1], [0, 1, 1, 0, 0, 0, 1, 0, 1, 1, 0], [1] * 11, [0] * 11],
}
over_kinds = pytest.mark.parametrize("kind", KINDS)


def make_filter(kind, kernel_size, stride=1, causal=False, full_windows=False, dtype=torch.float64):
    made = KeyValueFilter(kind, 3, kernel_size, stride, causal, full_windows).to(dtype)
    if made.weight is not None:
        torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(kernel_size))
    return made


def tokens(length=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)
    both = torch.randn(2, 4, length, 3, 5, generator=generator, dtype=torch.float64).to(dtype)
    return [part.transpose(1, 2).requires_grad_() for part in both]


@over_kinds
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "causal", "full_windows"),
    [
        *[(size, 1, False, False) for size in (1, 4, 5)],
        *[(size, 1, True, False) for size in (3, 1, 20)],
        *[(*sizes, False, False) for sizes in ((4, 2), (2, 5), (3, 3), (20, 4))],
        *[(*sizes, False, True) for sizes in ((1, 1), (4, 1), (5, 1), (12, 1), (4, 2), (2, 5), (11, 3), (20, 4))],
    ],
)
def test_windows_and_gradients_against_the_reference(kind, mask, kernel_size, stride, causal, full_windows):
    made = make_filter(kind, kernel_size, stride, causal, full_windows)
    key, value = tokens()
    holes = mask == "holes"
    mask = None if MASKS[mask] is None else torch.tensor(MASKS[mask], dtype=torch.bool)
    options = {"weight": made.weight, "mask": mask, "stride": stride, "causal": causal, "full_windows": full_windows}
    wanted = [reference_filter(part, kind, kernel_size, **options) for part in (key, value)]
    got = made(key, value, mask)
    assert_close("key", got[0], wanted[0][0])
    assert_close("value", got[1], wanted[1][0])
    if mask is not None:
        assert torch.equal(got[2], wanted[0][1])
        if not holes:
            assert torch.equal(made.window_counts(mask.sum(1)), got[2].sum(1))
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(got[0].shape, generator=generator, dtype=torch.float64)
    inputs = [key, value, *made.parameters()]

    def gradients(outputs):
        return torch.autograd.grad((outputs[0] * weights).sum() + (outputs[1] * weights.flip(0)).sum(), inputs)

    for index, pair in enumerate(zip(gradients(got[:2]), gradients([w[0] for w in wanted]), strict=True)):
        assert_close(f"gradient {index}", *pair)


@over_kinds
def test_half_precision_follows_double(kind):
    exact = make_filter(kind, 4)(*tokens())[0]
    rounded = make_filter(kind, 4, dtype=torch.bfloat16)(*tokens(dtype=torch.bfloat16))[0]
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).abs().max() < 0.05


@over_kinds
def test_a_strided_filter_is_the_dense_one_subsampled(kind):
    dense, strided = make_filter(kind, 4), make_filter(kind, 4, stride=3)
    # A dense window reaches (4 - 1) // 2 = 1 token back; a strided one starts with its own.
    assert_close("key", strided(*tokens())[0][:, :, :3], dense(*tokens())[0][:, :, 1::3][:, :, :3])


@over_kinds
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("length", [4, 11, 12])
def test_full_windows_are_those_of_torch_without_padding(kind, stride, length):
    made = make_filter(kind, 4, stride, full_windows=True)
    key, value = tokens(length)
    if kind == "conv":
        kernels = torch.nn.Conv2d(3, 3, (4, 1), (stride, 1), groups=3, bias=False, dtype=torch.float64)
        kernels.weight.data = made.weight.detach()[:, None, :, None]
    elif kind == "max_pool":
        kernels = torch.nn.MaxPool2d((4, 1), (stride, 1))
    else:
        kernels = torch.nn.AvgPool2d((4, 1), (stride, 1))
    assert_close("key", made(key, value)[0], kernels(key))
    assert_close("value", made(key, value)[1], kernels(value))
    assert kernels(key).shape[2] == (length - 4) // stride + 1


def test_an_identity_kernel_changes_nothing():
    made = make_filter("conv", 4)
    torch.nn.init.zeros_(made.weight)
    made.weight.data[:, 1] = 1
    key, value = tokens()
    assert_close("key", made(key, value)[0], key)
    assert_close("value", made(key, value)[1], value)


@over_kinds
def test_gradcheck(kind):
    made = make_filter(kind, 3, stride=2)
    mask = torch.tensor(MASKS["left"], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda key, value: made(key, value, mask)[:2], tokens())
