"""`generate` on transformers' own cache, for every causal family."""

import copy

import pytest
import torch
from transformers import StaticCache

from tests.models.variants import FAMILIES, over_causal_families, over_causal_variants, padded, random_ids, tiny_model


NEW = {"max_new_tokens": 12, "min_new_tokens": 12}


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
