"""What every family promises, under every option: one suite over the registry."""

import pytest
import torch
from transformers import DynamicCache

from hf_effattn.models.sequence import SequenceInfo
from tests.models.variants import FAMILIES, VARIANT_NAMES, VARIANTS, padded, random_ids, tiny_model
from tests.numerics import assert_close


ROWS = [random_ids(1, length, seed=length)[0] for length in (17, 9, 1)]

over_variants = pytest.mark.parametrize(("family", "options"), VARIANTS, ids=VARIANT_NAMES)
over_directions = pytest.mark.parametrize("is_decoder", [False, True], ids=["bidirectional", "causal"])
over_sides = pytest.mark.parametrize("side", ["left", "right"])


def hidden(model, ids, mask=None, **kwargs):
    with torch.no_grad():
        return model(ids, attention_mask=mask, **kwargs).last_hidden_state


@over_variants
@over_directions
@over_sides
def test_content_of_padding_changes_nothing(family, options, is_decoder, side):
    model = tiny_model(family, dtype=torch.float32, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, side)
    other = torch.where(mask == 1, ids, random_ids(*ids.shape, seed=5))
    assert not torch.equal(ids, other)
    assert torch.equal(hidden(model, ids, mask)[mask == 1], hidden(model, other, mask)[mask == 1])


@over_variants
@over_directions
@over_sides
def test_padded_equals_unpadded(family, options, is_decoder, side):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, side)
    together = hidden(model, ids, mask)
    for i, row in enumerate(ROWS):
        assert_close(f"row {i}", together[i][mask[i] == 1], hidden(model, row[None])[0])


@over_variants
@over_directions
def test_batch_invariance(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids = random_ids(4, 15)
    together = hidden(model, ids)
    for i in range(4):
        assert_close(f"row {i}", together[i], hidden(model, ids[i : i + 1])[0])


@over_variants
@over_directions
def test_a_row_without_real_tokens_is_finite_and_harmless(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids = random_ids(2, 12)
    mask = torch.tensor([[1] * 12, [0] * 12])
    output = hidden(model, ids, mask)
    assert torch.isfinite(output).all()
    assert_close("the other row", output[0], hidden(model, ids[:1])[0])


@over_variants
def test_causal_models_see_no_future_and_encoders_do(family, options):
    ids = random_ids(2, 20)
    other = ids.clone()
    other[:, 12:] = random_ids(2, 8, seed=6)
    causal = tiny_model(family, is_decoder=True, dtype=torch.float32, **options)
    assert torch.equal(hidden(causal, ids)[:, :12], hidden(causal, other)[:, :12])
    full = tiny_model(family, is_decoder=False, **options)
    assert (hidden(full, ids)[:, :12] - hidden(full, other)[:, :12]).abs().max() > 1e-3


@over_variants
@over_sides
@pytest.mark.parametrize("parts", [[1] * 17, [9, 1, 1, 6], [16, 1]], ids=["steps", "mixed", "prefill"])
def test_incremental_equals_full(family, options, side, parts):
    model = tiny_model(family, is_decoder=True, **options)
    ids, mask = padded(ROWS, side)
    expected = hidden(model, ids, mask)
    cache, outputs, start = DynamicCache(config=model.config), [], 0
    for length in parts:
        end = start + length
        outputs.append(hidden(model, ids[:, start:end], mask[:, :end], cache=cache, use_cache=True))
        start = end
    assert_close("hidden states", torch.cat(outputs, dim=1)[mask == 1], expected[mask == 1])


@over_variants
def test_a_cache_needs_no_mask_where_nothing_is_padded(family, options):
    model = tiny_model(family, is_decoder=True, **options)
    ids = random_ids(2, 10)
    first = model(ids[:, :6], use_cache=True)
    second = hidden(model, ids[:, 6:], cache=first.cache)
    assert_close("hidden states", second, hidden(model, ids)[:, 6:])


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.constant_state], ids=lambda f: f.model_type)
@pytest.mark.parametrize("options", [{}, {"key_value_filter": "conv"}], ids=["plain", "filtered"])
def test_the_state_does_not_grow_with_the_context(family, options):
    model = tiny_model(family, is_decoder=True, **options)

    def state_size(length):
        cache = model(random_ids(2, length), use_cache=True).cache
        tensors = [
            t for layer in cache.layers for t in (*layer.recurrent_states.values(), *layer.conv_states.values())
        ]
        return sum(tensor.numel() for tensor in tensors if tensor is not None)

    assert state_size(5) == state_size(70)


@over_variants
@over_directions
def test_gradient_checkpointing_changes_nothing(family, options, is_decoder):
    auto_class = "AutoModelForCausalLM" if is_decoder else "AutoModelForMaskedLM"
    ids, mask = padded(ROWS, "right")

    def loss_and_gradients(checkpointing):
        model = tiny_model(family, auto_class, **options).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        loss = model(ids, attention_mask=mask, labels=ids).loss
        loss.backward()
        return [loss, *(p.grad for p in model.parameters())]

    for plain, checkpointed in zip(loss_and_gradients(False), loss_and_gradients(True), strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.slow
@over_directions
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_type)
def test_bf16_is_finite_at_long_length(family, is_decoder):
    length = 65_536 if family.cost.startswith("O(N d") else 4_096
    options = {"is_decoder": is_decoder, "num_hidden_layers": 1, "max_position_embeddings": length}
    model = tiny_model(family, dtype=torch.bfloat16, **options).train()
    output = model(random_ids(1, length)).last_hidden_state
    output.float().pow(2).mean().backward()
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@over_variants
@over_directions
def test_traces_without_graph_breaks(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, use_cache=False, **options)
    ids, mask = padded(ROWS, "right")
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close("hidden states", hidden(traced, ids, mask)[mask == 1], hidden(model, ids, mask)[mask == 1])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_type)
def test_compiles_with_inductor(family):
    model = tiny_model(family, dtype=torch.float32)
    ids, mask = padded(ROWS, "right")
    compiled = torch.compile(model, fullgraph=True)
    assert_close("hidden states", hidden(compiled, ids, mask)[mask == 1], hidden(model, ids, mask)[mask == 1])


@over_variants
@over_directions
def test_the_reference_backend_agrees(family, options, is_decoder):
    fast = tiny_model(family, is_decoder=is_decoder, **options)
    slow = tiny_model(family, is_decoder=is_decoder, attention_backend="reference", **options)
    assert set(fast.effattn_report()["layers"].values()) == {"torch"}
    assert set(slow.effattn_report()["layers"].values()) == {"reference"}
    ids, mask = padded(ROWS, "right")
    assert_close("hidden states", hidden(slow, ids, mask), hidden(fast, ids, mask))


@over_variants
@over_directions
def test_implied_attention_maps(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, "right")
    plain = hidden(model, ids, mask)
    outputs = model(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True, use_cache=False)
    assert_close("hidden states", outputs.last_hidden_state, plain)
    assert len(outputs.attentions) == 2
    assert len(outputs.hidden_states) == 3
    for weights in outputs.attentions:
        assert weights.shape == (3, 3, 17, 17)
        assert torch.equal(weights[1, :, :, 9:], torch.zeros_like(weights[1, :, :, 9:])), "padding weighs nothing"
        if is_decoder:
            assert torch.equal(weights.triu(1), torch.zeros_like(weights)), "the future weighs nothing"
    # The map is the one the layer used: it gives the layer's output from the layer's values.
    attention = model.layers[0].attention
    first = outputs.hidden_states[0]
    entering = model.layers[0].attention_norm(first) if model.layers[0].pre_norm else first
    values = attention.project(entering, SequenceInfo(17, mask == 1, mask.cumsum(1), mask.sum(1, keepdim=True)))[2]
    joined = (outputs.attentions[0] @ values).transpose(1, 2).flatten(2)
    used = {}
    attention.register_forward_hook(lambda module, inputs, output: used.update(output=output[0]))
    hidden(model, ids, mask)
    assert_close("attention output", joined if attention.output is None else attention.output(joined), used["output"])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.model_type)
def test_attention_maps_are_refused_where_they_would_exhaust_memory(family):
    model = tiny_model(family, max_position_embeddings=5000, num_hidden_layers=1)
    with pytest.raises(ValueError, match="output_attentions=True would build 4097 x 4097 maps"):
        model(random_ids(1, 4097), output_attentions=True)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.constant_state], ids=lambda f: f.model_type)
def test_attention_maps_are_refused_when_the_keys_are_gone(family):
    model = tiny_model(family, is_decoder=True)
    cache = model(random_ids(1, 5), use_cache=True).cache
    with pytest.raises(ValueError, match="keeps only their sum"):
        model(random_ids(1, 2), cache=cache, output_attentions=True)
