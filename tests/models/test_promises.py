"""What every family promises, under every option: one suite over the registry."""

import pytest
import torch
from transformers import DynamicCache

from hf_effattn.families import find
from tests.models.variants import (
    FAMILIES,
    MEMORY_FAMILIES,
    VARIANT_NAMES,
    VARIANTS,
    over_causal_variants,
    over_directions,
    over_families,
    over_variants,
    padded,
    random_ids,
    tiny_config,
    tiny_model,
)
from tests.numerics import assert_close


ROWS = [random_ids(1, length, seed=length)[0] for length in (17, 9, 1)]

over_sides = pytest.mark.parametrize("side", ["left", "right"])


def hidden(model, ids, mask=None, **kwargs):
    with torch.no_grad():
        return model(ids, attention_mask=mask, **kwargs).last_hidden_state


@over_directions
@over_sides
def test_content_of_padding_changes_nothing(family, options, is_decoder, side):
    model = tiny_model(family, dtype=torch.float32, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, side)
    other = torch.where(mask == 1, ids, random_ids(*ids.shape, seed=5))
    assert not torch.equal(ids, other)
    assert torch.equal(hidden(model, ids, mask)[mask == 1], hidden(model, other, mask)[mask == 1])


@pytest.mark.compat
@over_directions
@over_sides
def test_padded_equals_unpadded(family, options, is_decoder, side):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, side)
    together = hidden(model, ids, mask)
    for i, row in enumerate(ROWS):
        assert_close(f"row {i}", together[i][mask[i] == 1], hidden(model, row[None])[0])


@over_directions
def test_batch_invariance(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids = random_ids(4, 15)
    together = hidden(model, ids)
    for i in range(4):
        assert_close(f"row {i}", together[i], hidden(model, ids[i : i + 1])[0])


@over_directions
def test_a_row_without_real_tokens_is_finite_and_harmless(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids = random_ids(2, 12)
    mask = torch.tensor([[1] * 12, [0] * 12])
    output = hidden(model, ids, mask)
    assert torch.isfinite(output).all()
    assert_close("the other row", output[0], hidden(model, ids[:1])[0])


@over_causal_variants
def test_causal_models_see_no_future(family, options):
    ids = random_ids(2, 20)
    other = torch.cat([ids[:, :12], random_ids(2, 8, seed=6)], dim=1)
    causal = tiny_model(family, is_decoder=True, dtype=torch.float32, **options)
    assert torch.equal(hidden(causal, ids)[:, :12], hidden(causal, other)[:, :12])


@over_variants
def test_encoders_see_everything(family, options):
    """The end depends on the beginning and, unless the input is read in segments, the beginning on the end."""
    ids, other = random_ids(2, 20), random_ids(2, 20, seed=6)
    model = tiny_model(family, is_decoder=False, **options)
    plain = hidden(model, ids)
    new_beginning = hidden(model, torch.cat([other[:, :8], ids[:, 8:]], dim=1))
    assert (plain - new_beginning)[:, 12:].abs().max() > 1e-3
    new_end = hidden(model, torch.cat([ids[:, :12], other[:, 12:]], dim=1))
    segments = options.get("segment_length", 20) <= 12
    changed = bool((plain - new_end)[:, :10].abs().max() > 1e-3)
    assert changed is not segments


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.causal], ids=lambda f: f.model_type)
def test_a_family_without_a_causal_form_refuses_to_be_a_decoder(family):
    with pytest.raises(ValueError, match="has no causal form, so is_decoder=True is refused"):
        tiny_config(family, is_decoder=True)
    config = tiny_config(family)
    config.is_decoder = True
    with pytest.raises(ValueError, match="has no causal form"):
        family.model_class("AutoModel")(config)


@pytest.mark.compat
@over_causal_variants
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


@over_causal_variants
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


@pytest.mark.compat
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
        # What the last layer leaves in a memory is for those who read it, and no head here does.
        return [loss, *(p.grad for p in model.parameters() if p.grad is not None)]

    for plain, checkpointed in zip(loss_and_gradients(False), loss_and_gradients(True), strict=True):
        assert torch.equal(plain, checkpointed)


#: Families at long length, with the options under which they cost O(N), as encoders and as decoders.
LONG = [
    (family, options, is_decoder)
    for family in FAMILIES
    for options in ([{"segment_length": 1024}] if family.model_type == "memory_transformer" else [{}])
    for is_decoder in ([False, True] if family.causal else [False])
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize(
    ("family", "options", "is_decoder"),
    LONG,
    ids=[f"{family.model_type}-{'causal' if is_decoder else 'bidirectional'}" for family, _, is_decoder in LONG],
)
def test_half_precision_is_finite_at_long_length(family, options, is_decoder, dtype):
    length = 4_096 if family.model_type == "vanilla_transformer" else 65_536
    options = options | {"is_decoder": is_decoder, "num_hidden_layers": 1, "max_position_embeddings": length}
    model = tiny_model(family, dtype=dtype, **options).train()
    output = model(random_ids(1, length)).last_hidden_state
    output.float().pow(2).mean().backward()
    assert torch.isfinite(output).all()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.compat
@over_directions
def test_traces_without_graph_breaks(family, options, is_decoder):
    model = tiny_model(family, is_decoder=is_decoder, use_cache=False, **options)
    ids, mask = padded(ROWS, "right")
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_close("hidden states", hidden(traced, ids, mask)[mask == 1], hidden(model, ids, mask)[mask == 1])


@pytest.mark.compat
@pytest.mark.slow
@over_families
def test_compiles_with_inductor(family):
    model = tiny_model(family, dtype=torch.float32)
    ids, mask = padded(ROWS, "right")
    compiled = torch.compile(model, fullgraph=True)
    assert_close("hidden states", hidden(compiled, ids, mask)[mask == 1], hidden(model, ids, mask)[mask == 1])


@over_directions
def test_plain_tensors_may_stand_for_parameters(family, options, is_decoder):
    """As they do in the replicas of DataParallel, in FSDP's blocks, and under torch's functional transforms."""
    model = tiny_model(family, is_decoder=is_decoder, **options)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    ids, mask = padded(ROWS, "right")
    inputs = {"input_ids": ids, "attention_mask": mask}
    output = torch.func.functional_call(model, tensors, kwargs=inputs).last_hidden_state
    assert_close("hidden states", output, model(**inputs).last_hidden_state)


@over_families
def test_the_backend_can_be_changed_later(family):
    model = tiny_model(family)
    model.config.attention_backend = "reference"
    assert set(model.effattn_report()["layers"].values()) == {"reference"}
    model.config.attention_backend = "faster"
    with pytest.raises(ValueError, match="unknown attention_backend 'faster'"):
        model(random_ids(1, 5))


@over_directions
def test_the_reference_backend_agrees(family, options, is_decoder):
    fast = tiny_model(family, is_decoder=is_decoder, **options)
    slow = tiny_model(family, is_decoder=is_decoder, attention_backend="reference", **options)
    linear = fast.effattn_report()["operator"] == "linear_attention"
    assert set(fast.effattn_report()["layers"].values()) == {
        "cpu" if linear and fast.dtype != torch.float64 else "torch"
    }
    assert set(slow.effattn_report()["layers"].values()) == {"reference"}
    ids, mask = padded(ROWS, "right")
    assert_close("hidden states", hidden(slow, ids, mask), hidden(fast, ids, mask))


def maps_and_layer_inputs(model, ids, mask):
    """The outputs with maps, what enters the first attention layer, and what leaves it."""
    plain = hidden(model, ids, mask)
    kept = {}
    model.layers[0].attention.register_forward_hook(lambda module, given, out: kept.update(given=given, out=out))
    outputs = model(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True, use_cache=False)
    assert_close("hidden states", outputs.last_hidden_state, plain)
    assert len(outputs.attentions) == 2
    assert len(outputs.hidden_states) == 3
    return outputs, kept["given"], kept["out"]


@over_directions
def test_implied_attention_maps(family, options, is_decoder):
    if family in MEMORY_FAMILIES:
        pytest.skip("test_maps_of_a_memory is about these")
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, "right")
    outputs, given, out = maps_and_layer_inputs(model, ids, mask)
    for weights in outputs.attentions:
        assert weights.shape == (3, 3, 17, 17)
        assert torch.equal(weights[1, :, :, 9:], torch.zeros_like(weights[1, :, :, 9:])), "padding weighs nothing"
        if is_decoder:
            assert torch.equal(weights.triu(1), torch.zeros_like(weights)), "the future weighs nothing"
    # The map is the one the layer used: it gives the layer's output from the layer's values.
    attention = model.layers[0].attention
    values = attention.project(*given[:2])[2]
    joined = (outputs.attentions[0] @ values).transpose(1, 2).flatten(2)
    assert_close("attention output", joined if attention.output is None else attention.output(joined), out[0])


@pytest.mark.parametrize(
    ("family", "options"),
    [variant for variant in VARIANTS if variant[0].model_type in ("luna", "convluna")],
    ids=[name for name in VARIANT_NAMES if "luna" in name],
)
def test_maps_of_a_memory(family, options):
    model = tiny_model(family, **options)
    ids, mask = padded(ROWS, "right")
    outputs, (tokens, _, sequence, _), (read, weights, packed, pack_weights) = maps_and_layer_inputs(model, ids, mask)
    stride = options.get("filter_stride", 1)
    cut = options.get("filter_kernel_size", 4) - 1 if options.get("filter_windows") == "full" else 0
    size = options.get("memory_size", 5)
    for unpack, pack in zip(outputs.attentions, outputs.pack_attentions, strict=True):
        assert unpack.shape == (3, 3, 17, size)
        assert pack.shape == (3, 3, size, -(-(17 - cut) // stride))
        assert_close("sums", torch.stack([unpack.sum(-1).mean(), pack.sum(-1).mean()]), torch.ones(2).double())
        assert pack[1, :, :, -(-(9 - cut) // stride) :].abs().max() == 0, "padding weighs nothing"
    # The maps are those the layer used: they give its output from its values.
    attention = model.layers[0].attention
    key, value = (attention.heads("pack", name, tokens) for name in ("key", "value"))
    if attention.filter is not None:
        value = attention.filter(key, value, sequence.key_mask)[1]
    for side, map_, values, expected in (
        ("pack", pack_weights, value, packed),
        ("unpack", weights, attention.heads("unpack", "value", packed), read),
    ):
        joined = (map_ @ values).transpose(1, 2).flatten(2)
        assert_close(side, attention.project(side, "output", joined), expected)


@pytest.mark.parametrize("is_decoder", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("options", [{}, {"memory_filter": "avg_pool", "filter_stride": 2}], ids=["plain", "filter"])
def test_maps_beside_a_memory(is_decoder, options):
    if is_decoder and options:
        pytest.skip("a decoder without segments writes no memory that could be filtered")
    family = find("memory_transformer")
    model = tiny_model(family, is_decoder=is_decoder, **options)
    ids, mask = padded(ROWS, "right")
    plain = hidden(model, ids, mask)
    outputs = model(ids, attention_mask=mask, output_attentions=True, output_hidden_states=True, use_cache=False)
    assert_close("hidden states", outputs.last_hidden_state, plain)
    assert [len(outputs.attentions), len(outputs.hidden_states)] == [2, 3]
    for weights in outputs.attentions:
        assert weights.shape == (3, 3, 17, 3 + 17)
        assert_close("sums", weights.sum(-1), torch.ones(3, 3, 17, dtype=torch.float64))
        assert weights[1, :, :, 3 + 9 :].abs().max() == 0, "padding weighs nothing"
        if is_decoder:
            assert weights[..., 3:].triu(1).abs().max() == 0, "the future weighs nothing"
    assert (outputs.pack_attentions is None) == is_decoder
    for weights in outputs.pack_attentions or ():
        assert weights.shape == (3, 3, 3, 3 + (9 if options else 17))
        assert_close("sums", weights.sum(-1), torch.ones(3, 3, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="load the model with segment_length=None"):
        tiny_model(family, segment_length=4)(ids, output_attentions=True)


@over_families
def test_attention_maps_are_refused_where_they_would_exhaust_memory(family):
    options = {"memory_size": 4097} if "N l" in family.cost else {}
    model = tiny_model(family, max_position_embeddings=5000, num_hidden_layers=1, **options)
    with pytest.raises(ValueError, match=r"output_attentions=True would build 4097 x 4(097|100) maps"):
        model(random_ids(1, 4097), output_attentions=True)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.constant_state], ids=lambda f: f.model_type)
def test_attention_maps_are_refused_when_the_keys_are_gone(family):
    model = tiny_model(family, is_decoder=True)
    cache = model(random_ids(1, 5), use_cache=True).cache
    with pytest.raises(ValueError, match="keeps only their sum"):
        model(random_ids(1, 2), cache=cache, output_attentions=True)
