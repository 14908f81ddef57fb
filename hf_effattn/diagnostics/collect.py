"""The measures of every layer of a model, on a batch."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..models.base_sequence import SequenceInfo
from ..models.layer_feature_maps import FeatureMap
from ..models.layer_linear_attention import LinearSelfAttention
from ..models.layer_luna import PackUnpackAttention
from ..models.skeleton_model import EffAttnModel, EffAttnPreTrainedModel
from .measures import (
    attention_entropy,
    denominator_range,
    effective_rank,
    memory_cosine,
    stable_rank,
    state_norm,
    weight_sum,
)


#: The least sum of the weights of a token that sees any key; it is 1 where no weight is lost.
FULL_WEIGHTS = 0.99


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and in the end put each of its modules back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def diagnose(model: EffAttnPreTrainedModel, **inputs: Any) -> dict[str, float]:
    """Measures of a model on a batch, by layer: ``{"layer_0/memory_cosine": 0.93, ...}``.

    Blocks, attention layers and base models say by their attribute `measured` what can be measured at them:

    - Families with a memory: `memory_cosine` (of two cells or more), `memory_stable_rank` and `memory_effective_rank`
      of the memory that a layer hands on; Luna and ConvLuna also `pack_entropy` and `unpack_entropy`. The memory
      transformer is measured after the layers, under ``memory/``, since its segments pass them many times.
    - Linear attention: `state_norm`; with a denominator also `denominator_min`, `denominator_max` and
      `weight_sum_min`; with a trained feature map `orthogonality_error`.

    Warns where the weights of a token sum to less than `FULL_WEIGHTS`, as they do where the features of large keys
    vanish: under `normalizer_eps`, or below what their dtype can hold.

    Args:
        model: any model of the library, with a head or without. It is run in eval mode; its mode is restored.
        **inputs: what its forward takes, such as `input_ids` and `attention_mask`; labels are not needed. Of pairs
            both sequences are measured, and the mean is given.

    Raises:
        ValueError: a family whose layers have none of these measures.
    """
    found: dict[str, list[float]] = {}
    base = model if isinstance(model, EffAttnModel) else model.model
    places = {base: "memory"}
    for index, layer in enumerate(base.layers):
        places |= {layer: f"layer_{index}", layer.attention: f"layer_{index}"}
    handles = [module.register_forward_hook(_measuring(found, place)) for module, place in places.items()]
    handles += [m.register_forward_pre_hook(_with_weights) for m in places if _measured(m) == "packing"]
    try:
        with eval_mode(model):
            model(**inputs, **({"use_cache": False} if base.config.is_decoder else {}))
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError(f"{type(model).__name__} has neither a memory nor linear attention that could be measured")
    _warn_of_lost_weights(found)
    return {name: sum(values) / len(values) for name, values in sorted(found.items())}


def _warn_of_lost_weights(found: dict[str, list[float]]) -> None:
    least = {name: min(values) for name, values in found.items() if name.endswith("/weight_sum_min")}
    lost = [f"{name.split('/')[0]}: {value:.3g}" for name, value in least.items() if value < FULL_WEIGHTS]
    if lost:
        warnings.warn(
            f"the weights of attention of some token do not sum to 1 ({', '.join(lost)}): the features of its keys "
            "vanish. Make the keys smaller (weight decay, a norm in front of them), the heads narrower, or take "
            "another feature_map",
            stacklevel=3,
        )


def _measuring(found: dict[str, list[float]], place: str) -> Callable[..., None]:
    """A hook that adds the measures of one module to `found`."""

    def measure(module: Any, args: tuple[Any, ...], output: Any) -> None:
        kind = _measured(module)
        for name, value in _MEASURES[kind](module, args, output).items() if kind else ():
            found.setdefault(f"{place}/{name}", []).append(value)

    return measure


def _measured(module: Any) -> str | None:
    """What can be measured at a module, a key of `_MEASURES`, or None."""
    return getattr(module, "measured", None)


def _memory(module: Any, args: tuple[Any, ...], output: Any) -> dict[str, float]:
    """Measures of the memory that a block hands on, or that a base model returns."""
    memory = output[1] if isinstance(output, tuple) else output.memory
    if memory is None:
        return {}
    measured = {"memory_stable_rank": stable_rank(memory), "memory_effective_rank": effective_rank(memory)}
    if memory.shape[-2] > 1:
        measured["memory_cosine"] = memory_cosine(memory)
    return {name: float(value) for name, value in measured.items()}


def _with_weights(module: PackUnpackAttention, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call that asks for the weights: after it the parameters may be offloaded again."""
    hidden_states, memory, sequence, *_ = args
    return hidden_states, memory, sequence, True


def _packing(module: PackUnpackAttention, args: tuple[Any, ...], output: Any) -> dict[str, float]:
    sequence: SequenceInfo = args[2]
    _, weights, packed, pack_weights = output
    windows = None
    if sequence.key_mask is not None:
        count = sequence.key_mask.sum(1, keepdim=True)
        if module.filter is not None:
            count = module.filter.window_counts(count)
        windows = torch.arange(pack_weights.shape[-1], device=count.device) < count
    measured = {"pack_entropy": attention_entropy(pack_weights, windows)}
    if packed.shape[1] > 1:
        measured["unpack_entropy"] = attention_entropy(weights, query_mask=sequence.key_mask)
    return {name: float(value) for name, value in measured.items()}


def _linear(module: LinearSelfAttention, args: tuple[Any, ...], output: Any) -> dict[str, float]:
    hidden_states, sequence, *_ = args
    query, key, value = module.features(hidden_states, sequence)
    measured = {"state_norm": state_norm(key, value, sequence.key_mask)}
    if module.eps is not None:
        low, high = denominator_range(query, key, sequence.key_mask, module.is_causal)
        measured |= {"denominator_min": low, "denominator_max": high, "weight_sum_min": weight_sum(low, module.eps)}
    feature_map = getattr(module, "feature_map", None)
    error = feature_map() if isinstance(feature_map, FeatureMap) else None
    measured |= {} if error is None else {"orthogonality_error": error}
    return {name: float(value) for name, value in measured.items()}


_MEASURES: dict[str, Callable[[Any, tuple[Any, ...], Any], dict[str, float]]] = {
    "linear attention": _linear,
    "memory": _memory,
    "packing": _packing,
}
