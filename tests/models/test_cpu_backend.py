"""The compiled kernels inside the models: as exact as plain torch, in everything that a model does with them."""

import pytest
import torch
from transformers import DynamicCache

from tests.models.variants import VARIANT_NAMES, VARIANTS, padded, random_ids, tiny_model
from tests.numerics import relative_error


ROWS = [random_ids(1, length, seed=length)[0] for length in (75, 9, 1)]
CASES = {
    f"{name}-{'causal' if is_decoder else 'bidirectional'}": (family, options, is_decoder)
    for name, (family, options) in zip(VARIANT_NAMES, VARIANTS, strict=True)
    if family.model_class("AutoModel").attention_operator == "linear_attention"
    for is_decoder in (False, True)
}

over_cases = pytest.mark.parametrize(("family", "options", "is_decoder"), CASES.values(), ids=CASES)


def three_models(family, is_decoder, **options):
    """The same weights in float64, in float32 in plain torch, and in float32 on the compiled kernels."""
    options["is_decoder"] = is_decoder
    exact, plain, fast = (
        tiny_model(family, dtype=dtype, attention_backend=backend, **options)
        for dtype, backend in ((torch.float64, "torch"), (torch.float32, "torch"), (torch.float32, "auto"))
    )
    report = fast.effattn_report()
    assert set(report["layers"].values()) == {"cpu"}, report["backends"]
    return exact, plain, fast


def assert_as_exact(what, exact, plain, fast):
    """The error of `fast` may be somewhat larger than that of `plain`, for sums in another order."""
    allowed = 4 * relative_error(plain, exact) + 1e-6
    error = relative_error(fast, exact)
    assert error <= allowed, f"{what}: relative RMS error {error:.3g}, allowed {allowed:.3g}"


@over_cases
@pytest.mark.parametrize("side", ["left", "right"])
def test_outputs_and_gradients(family, options, is_decoder, side):
    ids, mask = padded(ROWS, side)
    results = []
    for model in three_models(family, is_decoder, **options):
        hidden = model(ids, attention_mask=mask, use_cache=False).last_hidden_state[mask == 1]
        hidden.tanh().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append({"hidden states": hidden, **gradients})
    for name in results[0]:
        assert_as_exact(name, *(result[name] for result in results))


@over_cases
def test_padded_equals_unpadded(family, options, is_decoder):
    ids, mask = padded(ROWS, "left")
    exact, plain, fast = three_models(family, is_decoder, **options)
    with torch.no_grad():
        together = fast(ids, attention_mask=mask).last_hidden_state
        for i, row in enumerate(ROWS):
            alone = [model(row[None]).last_hidden_state[0] for model in (exact, plain)]
            assert_as_exact(f"row {i}", *alone, together[i][mask[i] == 1])


@over_cases
@pytest.mark.parametrize("parts", [[70, 1, 1, 3], [1] * 75], ids=["prefill", "steps"])
def test_incremental_equals_full(family, options, is_decoder, parts):
    if not is_decoder:
        pytest.skip("an encoder reads everything at once")
    ids, mask = padded(ROWS, "left")
    exact, plain, fast = three_models(family, is_decoder, **options)
    cache, outputs, start = DynamicCache(config=fast.config), [], 0
    with torch.no_grad():
        for length in parts:
            inputs = {"attention_mask": mask[:, : start + length], "cache": cache, "use_cache": True}
            outputs.append(fast(ids[:, start : start + length], **inputs).last_hidden_state)
            start += length
        full = [
            model(ids, attention_mask=mask, use_cache=False).last_hidden_state[mask == 1] for model in (exact, plain)
        ]
    assert_as_exact("hidden states", *full, torch.cat(outputs, dim=1)[mask == 1])


@over_cases
def test_autocast(family, options, is_decoder):
    """Under autocast queries and keys are bfloat16, and the feature map's parameters are not."""
    ids, mask = padded(ROWS, "right")
    exact, plain, fast = three_models(family, is_decoder, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = [model(ids, attention_mask=mask, use_cache=False).last_hidden_state for model in (plain, fast)]
    expected = exact(ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert_as_exact("hidden states", *(hidden[mask == 1] for hidden in (expected, *low)))
