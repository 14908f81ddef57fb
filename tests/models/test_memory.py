"""Families with a memory: cases whose answer is known, and what segments promise."""

import pytest
import torch
from transformers import DynamicCache

import hf_effattn
from hf_effattn.families import find
from tests.models.variants import padded, random_ids, tiny_model
from tests.numerics import assert_close


LUNA, CONVLUNA, MEMORY = (find(name) for name in ("luna", "convluna", "memory_transformer"))
IDS, MASK = padded([random_ids(1, 13)[0], random_ids(1, 7)[0]], "left")
DIRECTIONS = pytest.mark.parametrize("is_decoder", [False, True], ids=["bidirectional", "causal"])


def softmax_rows(scores):
    weights = [row.exp() / row.exp().sum() for row in scores]
    return torch.stack(weights)


def luna_layer(attention, x, p, tau_pack, tau_unpack):
    """Equations 4 and 5 of Luna for one sequence ``[N, D]`` and its memory ``[l, D]``, head by head."""

    def projected(side, name, states):
        for key in (f"shared_{name}", f"{side}_{name}"):
            if key in attention.projections:
                linear = attention.projections[key]
                return states @ linear.weight.T + linear.bias
        return states

    def attend(side, queries, keys, tau):
        q, k = projected(side, "query", queries), projected(side, "key", keys)
        v = projected(side, "value", keys)
        heads = []
        for part in (slice(0, 8), slice(8, 16), slice(16, 24)):
            heads.append(softmax_rows(q[:, part] @ k[:, part].T / tau) @ v[:, part])
        return projected(side, "output", torch.cat(heads, dim=1))

    packed = attend("pack", p, x, tau_pack)
    return attend("unpack", x, packed, tau_unpack), packed


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"shared_projections": [], "use_value_projection": False},
        {"shared_projections": ["key"], "pack_temperature": "unit", "unpack_temperature": "learned"},
    ],
)
def test_a_luna_layer_is_its_equations(options):
    attention = tiny_model(LUNA, **options).layers[0].attention
    generator = torch.Generator().manual_seed(0)
    x, p = (torch.randn(n, 24, generator=generator, dtype=torch.float64) for n in (13, 5))
    sequence = hf_effattn.models.base_sequence.SequenceInfo(13, None, None, None)
    read, _, packed, _ = attention(x[None], p[None], sequence)
    taus = {"sqrt": 8**0.5, "unit": 1.0}
    tau_pack = taus[options.get("pack_temperature", "sqrt")]
    tau_unpack = taus.get(options.get("unpack_temperature", "sqrt"))
    if tau_unpack is None:
        tau_unpack = attention.unpack_log_temperature.exp()
    expected_read, expected_packed = luna_layer(attention, x, p, tau_pack, tau_unpack)
    assert_close("packed", packed[0], expected_packed)
    assert_close("read", read[0], expected_read)


@pytest.mark.parametrize("use_value_projection", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_single_cell_is_what_many_equal_cells_are(use_value_projection, dropout):
    """With equal cells every unpacking weight is 1/l and every token reads the same: the short cut of one cell."""
    shared = ["query", "key", "output"]
    options = {"use_value_projection": use_value_projection, "shared_projections": shared}
    one = tiny_model(LUNA, memory_size=1, attention_probs_dropout_prob=dropout, **options)
    many = tiny_model(LUNA, memory_size=4, **options)
    state = one.state_dict()
    state["memory.cells"] = state["memory.cells"].expand(4, -1)
    many.load_state_dict(state)
    ids = random_ids(2, 13)
    expected = many(ids).last_hidden_state
    assert_close("short cut", one(ids).last_hidden_state, expected)
    if dropout:
        means = torch.stack([one.train()(ids).last_hidden_state for _ in range(3)])
        assert (means[0] - means[1]).abs().max() > 1e-3, "dropout acts on the weight of the cell"


def test_convluna_with_an_identity_filter_is_luna():
    options = {"shared_projections": ["query", "key", "output"], "use_value_projection": False}
    luna = tiny_model(LUNA, pack_temperature="learned", unpack_temperature="learned", **options)
    conv = tiny_model(CONVLUNA)
    conv.load_state_dict(luna.state_dict(), strict=False)
    for layer in conv.layers:
        torch.nn.init.zeros_(layer.attention.filter.weight)
        layer.attention.filter.weight.data[:, 1] = 1
    outputs = [model(IDS, attention_mask=MASK) for model in (luna, conv)]
    assert_close("tokens", outputs[1].last_hidden_state, outputs[0].last_hidden_state)
    assert_close("memory", outputs[1].memory, outputs[0].memory)
    for options in ({"memory_filter": "none"}, {"memory_filter": "max_pool", "filter_kernel_size": 1}):
        plain = tiny_model(CONVLUNA, **options)
        plain.load_state_dict(luna.state_dict())
        assert_close(str(options), plain(IDS, attention_mask=MASK).memory, outputs[0].memory)


@DIRECTIONS
@pytest.mark.parametrize("memory_filter", ["none", "conv"])
def test_one_segment_is_the_memory_transformer(is_decoder, memory_filter):
    segmented = tiny_model(MEMORY, is_decoder=is_decoder, memory_filter=memory_filter, segment_length=13)
    whole = tiny_model(MEMORY, is_decoder=is_decoder, memory_filter="none" if is_decoder else memory_filter)
    whole.load_state_dict(segmented.state_dict(), strict=not is_decoder)
    states = [model(IDS, attention_mask=MASK).last_hidden_state for model in (segmented, whole)]
    assert_close("states", *[state[MASK == 1] for state in states])


def test_without_a_memory_worth_reading_segments_are_independent():
    """The second segment reads the first through the memory alone: cells that write the same hide what they read."""
    model = tiny_model(MEMORY, segment_length=5)
    ids, other = random_ids(1, 10), random_ids(1, 10, seed=9)
    mixed = torch.cat([other[:, :5], ids[:, 5:]], dim=1)
    assert (model(ids).last_hidden_state - model(mixed).last_hidden_state)[:, 5:].abs().max() > 1e-3
    torch.nn.init.zeros_(model.norm.weight)
    model.norm.bias.data += 1
    kept = {}
    model.layers[-1].register_forward_hook(lambda module, given, out: kept.update(last=out[0]))
    model(ids)
    first = kept["last"]
    model(mixed)
    assert torch.equal(first, kept["last"])


@DIRECTIONS
@pytest.mark.parametrize("span", [None, 1, 2, 3])
def test_gradients_flow_through_so_many_segments(is_decoder, span):
    model = tiny_model(MEMORY, is_decoder=is_decoder, segment_length=4, backprop_segments=span).train()
    embedded = torch.randn(2, 16, 24, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1] * 16, [0] * 4 + [1] * 12])
    states = model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
    states[:, -1].square().sum().backward()
    reached = embedded.grad.abs().sum(-1).unflatten(1, (4, 4)).sum(-1) > 0
    spans = min(span or 4, 4)
    assert reached[0].tolist() == [False] * (4 - spans) + [True] * spans
    assert reached[1, 1:].tolist() == [False] * (3 - min(spans, 3)) + [True] * min(spans, 3)
    assert not reached[1, 0], "padding"


def test_segments_have_no_longest_input():
    model = tiny_model(MEMORY, segment_length=8, max_position_embeddings=8)
    assert torch.isfinite(model(random_ids(1, 100)).last_hidden_state).all()
    with pytest.raises(ValueError, match="more than max_position_embeddings=80"):
        tiny_model(MEMORY)(random_ids(1, 100))


@pytest.mark.compat
@pytest.mark.parametrize("memory_filter", ["none", "conv"])
def test_a_decoder_in_segments_generates_with_a_state_of_constant_size(memory_filter):
    options = {"segment_length": 5, "memory_filter": memory_filter, "tie_word_embeddings": False}
    model = tiny_model(MEMORY, "AutoModelForCausalLM", max_position_embeddings=5, **options)
    new = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}
    together = model.generate(IDS, attention_mask=MASK, **new)
    assert torch.equal(together, model.generate(IDS, attention_mask=MASK, use_cache=False, **new))
    beams = {"attention_mask": MASK, "num_beams": 3, **new}
    assert torch.equal(model.generate(IDS, **beams), model.generate(IDS, use_cache=False, **beams))
    for row, prompt in enumerate((IDS[0], IDS[1, 6:])):
        assert torch.equal(model.generate(prompt[None], **new)[0, -24:], together[row, -24:])

    def size(length):
        layers = model(random_ids(2, length), use_cache=True).cache.layers
        states = [
            state for layer in layers for state in (*layer.recurrent_states.values(), *layer.conv_states.values())
        ]
        return sum(state.numel() for state in states if state is not None)

    assert size(3) == size(70)


def test_a_foreign_cache_meets_a_clear_error():
    model = tiny_model(MEMORY, is_decoder=True, segment_length=5)
    with pytest.raises(ValueError, match=r"must hold the layers .*DynamicCache\(config=model.config\)"):
        model(random_ids(1, 3), cache=DynamicCache())


@pytest.mark.parametrize("pooling", [None, "mean", "last", "memory"])
def test_classifiers_of_segments_read_what_has_seen_them_all(pooling):
    options = {"segment_length": 4, "pooling": pooling}
    model = tiny_model(MEMORY, "AutoModelForSequenceClassification", **options)
    ids = random_ids(1, 12)
    changed = torch.cat([random_ids(1, 3, seed=8), ids[:, 3:]], dim=1)
    assert (model(ids).logits - model(changed).logits).abs().max() > 1e-4
    with pytest.raises(ValueError, match='pooling="cls" reads the first token, which sees the first'):
        tiny_model(MEMORY, "AutoModelForSequenceClassification", segment_length=4, pooling="cls")


@pytest.mark.parametrize("pooling", ["mean", "last", "memory"])
@pytest.mark.parametrize("segment_length", [None, 4])
def test_training_and_evaluation_read_the_same(pooling, segment_length):
    if pooling == "memory" and segment_length is None:
        return
    options = {"segment_length": segment_length, "pooling": pooling, "is_decoder": True}
    model = tiny_model(MEMORY, "AutoModelForSequenceClassification", **options)
    assert_close(
        "logits", model.eval()(IDS, attention_mask=MASK).logits, model.train()(IDS, attention_mask=MASK).logits
    )
    if pooling == "memory":
        with pytest.raises(ValueError, match="needs use_cache=False"):
            model.eval()(IDS, attention_mask=MASK, use_cache=True)


def test_a_cache_cannot_count_segments_from_the_last():
    model = tiny_model(MEMORY, is_decoder=True, segment_length=4, backprop_segments=2)
    with pytest.raises(ValueError, match="backprop_segments=2 is counted from the last segment"):
        model(IDS)
    with torch.no_grad():
        cached = model(IDS).last_hidden_state
    assert_close("states", cached, model(IDS, use_cache=False).last_hidden_state)


@pytest.mark.compat
def test_checkpointing_with_a_cache_gives_the_gradients_without():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(MEMORY, "AutoModelForCausalLM").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(IDS, cache=DynamicCache(config=model.config)).logits.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.equal(*gradients)


def test_a_decoder_can_be_read_at_the_memory_that_it_writes():
    options = {"segment_length": 4, "pooling": "memory", "is_decoder": True}
    model = tiny_model(MEMORY, "AutoModelForSequenceClassification", **options)
    rows = [random_ids(1, 11)[0], random_ids(1, 5)[0]]
    ids, mask = padded(rows, "left")
    together = model(ids, attention_mask=mask).logits
    for index, row in enumerate(rows):
        assert_close(f"row {index}", together[index : index + 1], model(row[None]).logits)


def test_a_head_that_decodes_refuses_a_filter_that_nothing_would_read():
    with pytest.raises(ValueError, match="a decoder writes none without segment_length"):
        tiny_model(MEMORY, "AutoModelForCausalLM", memory_filter="conv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backprop_segments": 2}, "backprop_segments=2 needs segment_length"),
        ({"segment_length": 0}, "segment_length must be positive"),
        ({"segment_length": 90}, r"segment_length \(90\) must not exceed max_position_embeddings \(80\)"),
        ({"is_decoder": True, "memory_filter": "conv"}, "a decoder writes none without segment_length"),
        ({"is_decoder": True, "pooling": "memory"}, "a decoder writes no memory without segment_length"),
        ({"num_hidden_layers": 0}, "without layers no memory is read"),
    ],
)
def test_options_that_clash_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(MEMORY, **options)
