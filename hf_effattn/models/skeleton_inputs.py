"""The entrance of every model: the arguments of a forward call are checked before anything is computed."""

from collections.abc import Mapping
from typing import Any

import torch

from .base_sequence import SequenceInfo, check_attention_mask, readable
from .cache_tokens import CachedTokens
from .configuration_effattn import EffAttnConfig


#: Arguments of transformers that a model reads beside those in its signature.
_READ = {"output_attentions", "output_hidden_states"}
#: Arguments that generic code passes to any model and that have no effect here: where tokens go in a cache (it
#: counts by itself), options of experts, the divisor of a loss (without a head), and what `generate` hands through.
_WITHOUT_EFFECT = {"cache_position", "output_router_logits", "num_items_in_batch", "tokenizer", "assistant_tokenizer"}
#: Arguments by which collators describe documents that share a row.
_PACKED = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"}

_UNPACK = (
    "packed documents would read one another. Give every document a row of its own, padded, with an attention_mask "
    "(TRL: packing=False, padding_free=False)"
)


def check_names(model: str, given: Mapping[str, Any], config: EffAttnConfig) -> None:
    """Refuse arguments that a model does not know or cannot honour.

    Raises:
        TypeError: an unknown argument.
        ValueError: documents packed into one row, or a direction that is not the config's.
    """
    if unknown := given.keys() - _READ - _WITHOUT_EFFECT - _PACKED - {"is_causal"}:
        raise TypeError(f"{model}.forward got unknown arguments {sorted(unknown)}")
    if packed := sorted(name for name in _PACKED if given.get(name) is not None):
        raise ValueError(f"{', '.join(packed)} cannot be honoured: {_UNPACK}")
    if given.get("is_causal") not in (None, config.is_decoder):
        raise ValueError(
            f"is_causal={given['is_causal']}, but the config says is_decoder={config.is_decoder}: load the model with "
            f"is_decoder={given['is_causal']}"
        )


def check_sequence(
    content: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    token_type_ids: torch.Tensor | None,
    cached: CachedTokens,
) -> SequenceInfo:
    """What the layers have to know of a sequence, counted once, after all that describes its tokens is checked.

    Args:
        content: what `check_content` returns: ids, embedded tokens or pixels.
        attention_mask: see `check_attention_mask`.
        position_ids: see `check_position_ids`.
        token_type_ids: see `check_token_types`.
        cached: the tokens before this call.

    Raises:
        ValueError: as the checks, or a cache of another number of rows.
    """
    batch, length = content.shape[0], content_length(content)
    cached.check_rows(batch)
    sequence = _counted(batch, length, content.device, attention_mask, cached)
    if position_ids is not None:
        check_position_ids(position_ids, batch, length, sequence)
    if token_type_ids is not None:
        check_token_types(token_type_ids, batch, length, sequence.key_mask, content.device)
    return sequence


def content_length(content: torch.Tensor) -> int:
    """The positions of ids, embedded tokens, or pixels, in front of which stands a CLS."""
    return 1 + content.shape[2] * content.shape[3] if content.dim() == 4 else content.shape[1]


def _counted(
    batch: int, length: int, device: torch.device, attention_mask: torch.Tensor | None, cached: CachedTokens
) -> SequenceInfo:
    if attention_mask is not None and not isinstance(attention_mask, torch.Tensor):
        raise ValueError(
            f"attention_mask must be a tensor [batch, length], got {type(attention_mask).__name__}; generate "
            'makes other masks for a static cache, use cache_implementation="dynamic"'
        )
    if attention_mask is not None:
        attention_mask = check_attention_mask(attention_mask, batch, cached.length, length, cached.counts)
    token_counts = torch.arange(1, length + 1, device=device)[None]
    if attention_mask is not None:
        token_counts = attention_mask[:, -length:].long().cumsum(-1)
    if cached.counts is not None:
        token_counts = token_counts + cached.counts.to(device)
    elif cached.length > 0:
        seen = cached.length if attention_mask is None else attention_mask[:, :-length].sum(-1, keepdim=True)
        token_counts = token_counts + seen
    return SequenceInfo(length, attention_mask, token_counts, token_counts[:, -1:])


def check_position_ids(position_ids: torch.Tensor, batch: int, length: int, sequence: SequenceInfo) -> None:
    """Refuse positions that do not go through a row in order, as those of packed documents do not.

    Where values cannot be read (`readable`), and in decoding steps on an accelerator, their order is not checked.

    Args:
        position_ids: integers, ``[batch or 1, length]``; of padding they may be anything in range.
        batch: rows of this call.
        length: positions of this call.
        sequence: which tokens are real, and how many came before this call.

    Raises:
        ValueError: a wrong shape or dtype, or real tokens whose positions do not rise.
    """
    if position_ids.shape not in ((batch, length), (1, length)) or not _whole(position_ids):
        raise ValueError(
            f"position_ids must be integers [batch or 1, length] = {[batch, length]}, got {list(position_ids.shape)} "
            f"of {position_ids.dtype}"
        )
    if not readable(position_ids) or (length == 1 and position_ids.device.type != "cpu"):
        return
    rows = position_ids.expand(batch, length)
    mask = sequence.key_mask
    real = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask.to(rows.device)
    start = sequence.token_counts[:, :1].to(rows).expand(batch, 1) - real[:, :1].to(rows)
    reached = torch.cat([start - 1, torch.where(real, rows, -1)], dim=1).cummax(1).values[:, :-1]
    wrong = (rows <= reached) & real
    if not bool(wrong.any()):
        return
    row, column = wrong.nonzero()[0].tolist()
    if not bool(real[row, :column].any()):
        raise ValueError(
            f"the first position of row {row} is {int(rows[row, column])}, but {int(start[row])} tokens came before "
            "it: leave position_ids out, or count on from the cache"
        )
    raise ValueError(
        f"position_ids start anew at column {column} of row {row}: {_UNPACK}. If these columns are padding, the "
        "attention_mask has to say so"
    )


def check_token_types(
    token_type_ids: torch.Tensor, batch: int, length: int, mask: torch.Tensor | None, device: torch.device
) -> None:
    """Refuse several segments in a row, which these models cannot tell apart; a single segment has no effect.

    Where values cannot be read (`readable`) they are not looked at, and have no effect.

    Raises:
        ValueError: a wrong shape, or a row whose real tokens are of more than one segment.
    """
    if token_type_ids.shape != (batch, length):
        raise ValueError(
            f"token_type_ids must be [batch, length] = {[batch, length]}, got {list(token_type_ids.shape)}"
        )
    if length == 1 or not readable(token_type_ids):
        return
    types = token_type_ids.to(device)
    real = torch.ones_like(types, dtype=torch.bool) if mask is None else mask
    highest = types.masked_fill(~real, torch.iinfo(torch.int32).min).amax(1)
    lowest = types.masked_fill(~real, torch.iinfo(torch.int32).max).amin(1)
    if bool((lowest < highest).any()):
        raise ValueError(
            "token_type_ids tell segments apart, and this model has no embedding of them: they would be lost. The "
            "separator between the segments stays in the tokens; to read pairs by it alone, set "
            "tokenizer.model_input_names = ['input_ids', 'attention_mask'] (it is saved with the tokenizer)"
        )


def choices_as_rows(**given: torch.Tensor | None) -> tuple[int, dict[str, torch.Tensor | None]]:
    """How many choices there are, and ``[batch, choices, length, ..]`` as rows ``[batch * choices, length, ..]``.

    Raises:
        ValueError: another number of dimensions, or tensors that differ in these three.
    """
    shapes = {name: list(tensor.shape) for name, tensor in given.items() if tensor is not None}
    first = next(iter(shapes.values()), [1, 1, 1])
    wanted = {name: 4 if name == "inputs_embeds" else 3 for name in shapes}
    if any(len(shape) != wanted[name] or shape[:3] != first[:3] for name, shape in shapes.items()):
        raise ValueError(
            f"multiple choice reads [batch, choices, length], the same in every tensor, got {shapes}; one text per "
            "row is for ForSequenceClassification"
        )
    return first[1], {name: None if tensor is None else tensor.flatten(0, 1) for name, tensor in given.items()}


def check_content(
    config: EffAttnConfig,
    input_ids: torch.Tensor | None,
    inputs_embeds: torch.Tensor | None,
    pixel_values: torch.Tensor | None,
) -> torch.Tensor:
    """The one of the three that was given, checked for its shape and dtype.

    Raises:
        ValueError: none, several, an empty one, one that is too long, or of another width than the model's; or
            pictures in colour, where the model reads grey ones.
    """
    given = [
        (value, shape)
        for value, shape in (
            (input_ids, ("batch", "length")),
            (inputs_embeds, ("batch", "length", "hidden")),
            (pixel_values, ("batch", "channels", "height", "width")),
        )
        if value is not None
    ]
    if len(given) != 1:
        raise ValueError(f"give exactly one of input_ids, inputs_embeds and pixel_values, got {len(given)}")
    value, shape = given[0]
    if value.dim() != len(shape) or 0 in value.shape:
        raise ValueError(f"the input must be [{', '.join(shape)}] and not empty, got {list(value.shape)}")
    if input_ids is not None and not _whole(value):
        raise ValueError(f"input_ids must be integers, got {value.dtype}; embedded tokens are inputs_embeds")
    if inputs_embeds is not None and value.shape[-1] != config.hidden_size:
        raise ValueError(
            f"inputs_embeds must be [batch, length, hidden_size={config.hidden_size}], got {list(value.shape)}"
        )
    length = content_length(value)
    limit = config.max_input_length
    if limit is not None and length > limit:
        raise ValueError(
            f"the input has {length} positions, more than max_position_embeddings={limit}; "
            "truncate it (tokenizer(..., truncation=True)) or train with a larger max_position_embeddings"
        )
    return value if pixel_values is None else _grey_from_rgb(config, value)


def _grey_from_rgb(config: EffAttnConfig, pixel_values: torch.Tensor) -> torch.Tensor:
    """One of three equal channels, for a model of one: transformers' pipelines make every picture RGB.

    Where values cannot be read (`readable`) the three stay, and are refused as three.
    """
    if config.num_channels != 1 or pixel_values.shape[1] != 3 or not readable(pixel_values):
        return pixel_values
    grey = pixel_values[:, :1]
    if not bool((pixel_values == grey).all()):
        raise ValueError(
            "this model reads grey pictures (num_channels=1), and the three channels of pixel_values differ: make the "
            "pictures grey first, as those were that it was trained on"
        )
    return grey


def _whole(tensor: torch.Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
