"""`generate` on transformers' own cache, for every causal family."""

import copy

import pytest
import torch
from transformers import Cache, StaticCache

from hf_effattn import byte_tokenizer
from hf_effattn.families import find
from hf_effattn.models.base_cache_slots import ConvState
from tests.compat.names import warns_of_the_old_cache_name
from tests.models.variants import FAMILIES, over_causal_families, over_causal_variants, padded, random_ids, tiny_model


pytestmark = pytest.mark.compat


NEW = {"max_new_tokens": 12, "min_new_tokens": 12}


def filled_cache(model, ids, **kwargs):
    with torch.no_grad():
        return model(ids, use_cache=True, **kwargs).cache


@over_causal_families
def test_greedy_equals_the_argmax_of_full_forwards(family):
    # With tied embeddings a random model likes to repeat the token that it has just read.
    model = tiny_model(family, "AutoModelForCausalLM", tie_word_embeddings=False)
    ids = random_ids(2, 7)
    generated = model.generate(ids, do_sample=False, **NEW)
    expected = ids
    for _ in range(NEW["max_new_tokens"]):
        logits = model(expected, use_cache=False).logits[:, -1]
        logits[:, model.config.eos_token_id] = -torch.inf
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generated, expected)
    assert len(generated[:, 7:].unique()) > 1, "a model that repeats itself would show nothing"


@over_causal_families
@pytest.mark.parametrize(
    "strategy",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8},
        {"do_sample": False, "num_beams": 4},
        {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
    ],
    ids=["greedy", "sampling", "beams", "beam-sampling"],
)
def test_with_and_without_cache_agree(family, strategy):
    model = tiny_model(family, "AutoModelForCausalLM")
    ids, mask = padded([random_ids(1, 9)[0], random_ids(1, 4)[0]], "left")
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        outputs.append(model.generate(ids, attention_mask=mask, use_cache=use_cache, **strategy, **NEW))
    assert torch.equal(*outputs)


@over_causal_families
def test_left_padded_batch_equals_single_prompts(family):
    model = tiny_model(family, "AutoModelForCausalLM")
    prompts = [random_ids(1, length, seed=length)[0] for length in (11, 5, 1)]
    ids, mask = padded(prompts, "left")
    together = model.generate(ids, attention_mask=mask, do_sample=False, **NEW)
    for i, prompt in enumerate(prompts):
        alone = model.generate(prompt[None], do_sample=False, **NEW)
        assert torch.equal(together[i, 11:], alone[0, len(prompt) :])


@over_causal_families
def test_generation_can_go_on_from_a_cache(family):
    model = tiny_model(family, "AutoModelForCausalLM")
    ids = random_ids(1, 6)
    whole = model.generate(ids, do_sample=False, **NEW)
    first = model(ids[:, :5], use_cache=True)
    step, tokens = ids[:, 5:6], []
    cache = first.cache
    for _ in range(NEW["max_new_tokens"]):
        output = model(step, cache=cache)
        output.logits[:, -1, model.config.eos_token_id] = -torch.inf
        step = output.logits[:, -1:].argmax(-1)
        tokens.append(step)
    assert torch.equal(torch.cat(tokens, dim=1), whole[:, 6:])


@over_causal_families
def test_a_static_cache_works_or_is_refused(family):
    model = tiny_model(family, "AutoModelForCausalLM")
    ids, static = random_ids(1, 6), {"cache_implementation": "static", "disable_compile": True}
    if family.constant_state:
        dynamic = model.generate(ids, do_sample=False, **NEW)
        assert torch.equal(model.generate(ids, do_sample=False, **static, **NEW), dynamic)
        return
    with pytest.raises(ValueError, match='cache_implementation="dynamic"'):
        model.generate(ids, **static, **NEW)
    with pytest.raises(ValueError, match="a static cache hands out slots"):
        model(ids, cache=StaticCache(config=model.config, max_cache_len=20))


@over_causal_families
def test_a_cache_can_be_reset_and_reordered(family):
    model = tiny_model(family, "AutoModelForCausalLM")
    ids = random_ids(2, 8)
    cache = model(ids, use_cache=True).cache
    cache.reorder_cache(torch.tensor([1, 0]))
    swapped = model(ids[:, :1], cache=cache).logits
    fresh = model(ids.flip(0), use_cache=True).cache
    assert torch.equal(swapped, model(ids[:, :1], cache=fresh).logits)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.constant_state], ids=lambda f: f.model_type)
def test_a_foreign_cache_meets_a_clear_error(family):
    from transformers import DynamicCache

    model = tiny_model(family, "AutoModelForCausalLM")
    with pytest.raises(ValueError, match=r"must hold the layers.*DynamicCache\(config=model.config\)"):
        model(random_ids(1, 3), cache=DynamicCache())


@over_causal_variants
def test_a_conversation_goes_on_from_its_cache(family, options):
    """With the whole text again, as is usual, and with what is new and a mask of the whole."""
    model = tiny_model(family, "AutoModelForCausalLM", **options)
    ids, mask = padded([random_ids(1, 9)[0], random_ids(1, 4)[0]], "left")
    first = model.generate(ids, attention_mask=mask, do_sample=False, return_dict_in_generate=True, **NEW)
    said = torch.cat([first.sequences, random_ids(2, 3, seed=5)], dim=1)
    mask = torch.cat([mask, mask.new_ones(2, said.shape[1] - 9)], dim=1)
    anew = model.generate(said, attention_mask=mask, do_sample=False, **NEW)
    for start in (0, first.sequences.shape[1] - 1):
        cache = copy.deepcopy(first.cache)
        inputs = {"attention_mask": mask, "cache": cache}
        went_on = model.generate(said[:, start:], do_sample=False, **inputs, **NEW)
        assert torch.equal(went_on[:, said.shape[1] - start :], anew[:, said.shape[1] :]), start


@over_causal_variants
@pytest.mark.parametrize("mask", ["ones", "none"])
def test_a_prefix_is_read_once_where_nothing_is_padded(family, options, mask):
    """transformers leaves a mask of ones out before it asks what is to be read."""
    model = tiny_model(family, "AutoModelForCausalLM", tie_word_embeddings=False, **options)
    ids = random_ids(2, 9)
    prefix = filled_cache(model, ids[:, :6])
    read = []
    model.model.embeddings.register_forward_pre_hook(lambda module, given: read.append(given[1].tolist()))
    anew = model.generate(ids, do_sample=False, **NEW)
    positions = read[0][0]
    # The whole text with a mask of the whole; what is new with such a mask, or without one.
    whole = {"attention_mask": torch.ones_like(ids)} if mask == "ones" else {}
    for start in (0, 6) if mask == "ones" else (6,):
        read.clear()
        went_on = model.generate(ids[:, start:], cache=copy.deepcopy(prefix), do_sample=False, **whole, **NEW)
        assert torch.equal(went_on[:, 9 - start :], anew[:, 9:])
        assert read[0][0] == positions[6:]
    embedded = model.get_input_embeddings()(ids)
    if mask == "ones":
        went_on = model.generate(inputs_embeds=embedded, cache=copy.deepcopy(prefix), do_sample=False, **whole, **NEW)
        assert torch.equal(went_on, anew[:, 9:])


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.constant_state], ids=lambda f: f.model_type)
def test_rows_of_different_lengths_go_on_without_a_mask(family):
    """A cache of states has counted the tokens; one of keys cannot tell which of them are padding."""
    model = tiny_model(family, "AutoModelForCausalLM")
    ids, mask = padded([random_ids(1, 9)[0], random_ids(1, 7)[0]], "left")
    cache = filled_cache(model, ids, attention_mask=mask)
    new = random_ids(2, 3, seed=5)
    whole = torch.cat([mask, mask.new_ones(2, 3)], dim=1)
    expected = model.generate(new, attention_mask=whole, cache=copy.deepcopy(cache), do_sample=False, **NEW)
    assert torch.equal(model.generate(new, cache=cache, do_sample=False, **NEW), expected)


@over_causal_families
@pytest.mark.parametrize("length", [3, 6, 9])
def test_a_text_of_which_nothing_is_left_or_that_may_be_two_things_is_refused(family, length):
    model = tiny_model(family, "AutoModelForCausalLM")
    ids = random_ids(1, 9)
    cache = filled_cache(model, ids[:, :6])
    if length <= 6:
        with pytest.raises(ValueError, match="new tokens alone with an attention_mask of the whole"):
            model.generate(ids[:, :length], attention_mask=torch.ones(1, length).long(), cache=cache, **NEW)
    if length >= 6:
        with pytest.raises(ValueError, match="leaves open whether they are the whole text"):
            model.generate(ids[:, :length], cache=cache, **NEW)


@over_causal_families
def test_a_prefix_is_read_once_through_a_wrapper(family):
    """PEFT stands in front of `prepare_inputs_for_generation` with a function of any arguments."""
    model = tiny_model(family, "AutoModelForCausalLM")
    ids = random_ids(1, 9)
    cache = filled_cache(model, ids[:, :6])
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False} | NEW
    expected = model.generate(ids, **given)
    own = model.prepare_inputs_for_generation
    model.prepare_inputs_for_generation = lambda *args, **kwargs: own(*args, **kwargs)
    assert torch.equal(model.generate(ids, cache=cache, **given), expected)


@over_causal_families
def test_beams_go_on_from_a_cache_with_a_row_for_each(family):
    model = tiny_model(family, "AutoModelForCausalLM")
    ids = random_ids(2, 9)
    cache = filled_cache(model, ids[:, :6])
    beams = {"num_beams": 3, "do_sample": False} | NEW
    with pytest.raises(ValueError, match=r"cache.reorder_cache\(rows\).*torch.arange\(2\).repeat_interleave\(n\)"):
        model.generate(ids[:, 6:], cache=copy.deepcopy(cache), **beams)
    cache.reorder_cache(torch.arange(2).repeat_interleave(3))
    assert torch.equal(model.generate(ids[:, 6:], cache=cache, **beams)[:, 3:], model.generate(ids, **beams)[:, 9:])


def test_a_softmax_model_can_be_assisted():
    """The assistant is asked to go on from its cache without a mask."""
    family = find("vanilla_transformer")
    model = tiny_model(family, "AutoModelForCausalLM", tie_word_embeddings=False)
    assistant = tiny_model(family, "AutoModelForCausalLM", tie_word_embeddings=False, num_hidden_layers=1)
    ids = random_ids(1, 9)
    expected = model.generate(ids, do_sample=False, **NEW)
    for helper in ({"assistant_model": assistant}, {"assistant_model": model}, {"prompt_lookup_num_tokens": 3}):
        assert torch.equal(model.generate(ids, do_sample=False, **helper, **NEW), expected)


def moved(cache):
    """Every tensor of a cache."""
    return [
        tensor
        for layer in cache.layers
        for value in vars(layer).values()
        for tensor in (value.values() if isinstance(value, dict) else [value])
        if isinstance(tensor, torch.Tensor)
    ]


REFUSED = {
    "maps": {"output_attentions": True},
    "rows": {"input_ids": random_ids(1, 2)},
    "mask": {"attention_mask": torch.full((2, 2), 2)},
    "positions": {"position_ids": torch.full((1, 2), 80)},
    "ids": {"input_ids": torch.full((2, 2), 64)},
    "segments": {"token_type_ids": torch.tensor([[0, 1], [0, 1]])},
    "backend": {},
}


@over_causal_variants
@pytest.mark.parametrize("reason", REFUSED)
def test_a_refused_call_leaves_the_cache_as_it_was(family, options, reason):
    model = tiny_model(family, "AutoModelForCausalLM", **options)
    cache = filled_cache(model, random_ids(2, 7))
    before = [tensor.clone() for tensor in moved(cache)]
    assert before
    if reason == "backend":
        model.config.attention_backend = "faster"
    given = {"input_ids": random_ids(2, 2)} | REFUSED[reason]
    if reason == "maps" and model.config.cache_type == "full_attention":
        # Here maps can be had, but not of any length.
        model.resize_position_embeddings(5000)
        given["input_ids"] = random_ids(2, 4097)
    with pytest.raises((ValueError, RuntimeError)):
        model(**given, cache=cache)
    assert all(map(torch.equal, before, moved(cache)))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.constant_state], ids=lambda f: f.model_type)
def test_a_mask_that_disagrees_with_a_cache_of_states_is_refused(family):
    model = tiny_model(family, is_decoder=True)
    new = random_ids(2, 2)
    cache = filled_cache(model, random_ids(2, 7))
    for width in (8, 10):
        with pytest.raises(ValueError, match=r"but the cache has seen \[7, 7\]"):
            model(new, attention_mask=torch.ones(2, width), cache=cache)


@over_causal_families
def test_positions_that_start_anew_behind_a_cache_are_refused(family):
    model = tiny_model(family, is_decoder=True)
    ids, mask = padded([random_ids(1, 7)[0], random_ids(1, 5)[0]], "left")
    cache = filled_cache(model, ids, attention_mask=mask)
    whole = torch.cat([mask, mask.new_ones(2, 2)], dim=1)
    with pytest.raises(ValueError, match="the first position of row 0 is 0, but 7 tokens came before it"):
        model(ids[:, :2], attention_mask=whole, position_ids=torch.tensor([[0, 1]]), cache=cache)
    counted = whole.cumsum(-1)[:, -2:] - 1
    expected = model(ids[:, :2], attention_mask=whole, cache=copy.deepcopy(cache))[0]
    assert torch.equal(model(ids[:, :2], attention_mask=whole, position_ids=counted, cache=cache)[0], expected)


@over_causal_families
def test_generation_stops_at_the_last_position(family):
    """Whatever length was asked for, and for the longest text of a batch."""
    model = tiny_model(family, "AutoModelForCausalLM", max_position_embeddings=16)
    model.generation_config.eos_token_id = None
    ids, mask = padded([random_ids(1, 9)[0], random_ids(1, 4)[0]], "left")
    # The last token is written but not read, and so needs no position.
    for asked in ({"max_new_tokens": 40}, {"max_length": 200, "num_beams": 2}):
        assert model.generate(ids, attention_mask=mask, do_sample=False, **asked).shape == (2, 17)
    assert model.generate(ids[1:, 5:], max_new_tokens=40).shape == (1, 17)
    padded_only = model.generate(ids[1:], attention_mask=mask[1:], max_new_tokens=40)
    assert padded_only.shape == (1, 9 + 13)
    cache = filled_cache(model, ids[:1])
    assert model.generate(ids[:1, :2], cache=cache, max_new_tokens=40).shape == (1, 2 + 6)
    embedded = model.get_input_embeddings()(ids[:1])
    assert model.generate(inputs_embeds=embedded, max_new_tokens=40).shape == (1, 8)
    assert model.generate(random_ids(1, 16), max_new_tokens=3).shape == (1, 17)
    assert model.generate(max_new_tokens=40).shape == (1, 17)
    with pytest.raises(ValueError, match="the text to go on from has 17 tokens, more than max_position_embeddings=16"):
        model.generate(random_ids(1, 17), max_new_tokens=1)


def test_generation_has_no_last_position_where_positions_are_counted_anew():
    family = find("memory_transformer")
    model = tiny_model(family, "AutoModelForCausalLM", max_position_embeddings=8, segment_length=8)
    assert model.generate(random_ids(1, 20), max_new_tokens=5, min_new_tokens=5).shape == (1, 25)


@over_causal_families
def test_generate_takes_what_transformers_hands_through(family):
    model, tokenizer = tiny_model(family, "AutoModelForCausalLM", vocab_size=260), byte_tokenizer(80)
    inputs = tokenizer("abc", return_tensors="pt")
    expected = model.generate(**inputs, do_sample=False, **NEW)
    given = {"tokenizer": tokenizer, "stop_strings": ["never"], "token_type_ids": torch.zeros_like(inputs.input_ids)}
    assert torch.equal(model.generate(**inputs, **given, do_sample=False, **NEW), expected)
    with warns_of_the_old_cache_name():
        cache = filled_cache(model, inputs.input_ids[:, :3])
        assert torch.equal(model.generate(**inputs, past_key_values=cache, do_sample=False, **NEW), expected)
    with pytest.raises(ValueError, match="not used by the model: \\['max_new_token'\\]"):
        model.generate(**inputs, max_new_token=3)
    for found, given in (("BatchEncoding", inputs), (r"\[4\]", inputs.input_ids[0])):
        with pytest.raises(ValueError, match=rf"must be a tensor \[batch, length\], got {found}"):
            model.generate(given)


def test_a_cache_that_does_not_go_with_the_text_is_refused():
    model = tiny_model(FAMILIES[0], "AutoModelForCausalLM")
    cache = model(random_ids(2, 9), use_cache=True).cache
    ids, mask = padded([random_ids(1, 12)[0], random_ids(1, 11)[0]], "left")
    for length in (9, 12):
        with pytest.raises(ValueError, match="new tokens alone with an attention_mask of the whole"):
            model.generate(ids[:, :length], attention_mask=mask[:, :length], cache=cache, **NEW)
    ids, mask = padded([random_ids(1, 12)[0], random_ids(1, 12)[0]], "right")
    mask = torch.cat([mask, torch.zeros_like(mask[:, :1])], dim=1)
    with pytest.raises(ValueError, match="no end of one length without padding"):
        model.generate(torch.cat([ids, ids[:, :1]], dim=1), attention_mask=mask, cache=cache, **NEW)


@over_causal_variants
def test_every_state_of_a_cache_has_a_place_of_its_own(family, options, monkeypatch):
    """One number means one thing in every family, so families whose options meet cannot overwrite a state."""
    written = {}
    update = Cache.update_conv_state

    def recording(self, states, layer_idx, state_idx=0, **kwargs):
        written.setdefault((layer_idx, int(state_idx)), set()).add(tuple(states.shape[:2]))
        return update(self, states, layer_idx, state_idx, **kwargs)

    monkeypatch.setattr(Cache, "update_conv_state", recording)
    model = tiny_model(family, is_decoder=True, **options)
    cache = model(random_ids(2, 7), use_cache=True).cache
    model(random_ids(2, 1), cache=cache)
    channels = {ConvState.TOKEN_COUNT: 1, ConvState.FILTER_COLUMNS: 2 * 24 + 1, ConvState.MEMORY: 24}
    for (layer_idx, place), shapes in written.items():
        assert shapes == {(2, channels[ConvState(place)])}
        assert place < cache.layers[layer_idx].number_of_states == model.config.number_of_conv_states
