"""The skeleton of every family: what a sequence is, the block, and the model without a head."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, StaticLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import AttentionLayer
from .backends import backends, resolve_backend
from .configuration_encoder import EncoderConfig
from .filters import KeyValueFilter
from .layers import MLP, Embeddings, LearnedPositions, ScaleNorm, make_norm
from .memory import LearnedMemory
from .module_hooks import execution_device
from .outputs import EncoderOutput
from .recurrent_cache import cached_token_count, check_recurrent_cache
from .sequence import SequenceInfo, check_attention_mask


#: Arguments of a forward call beside those in its signature: those that transformers adds, and one of ours.
_FORWARD_KEYS = {"output_attentions", "output_hidden_states", "keep_features"}


class EncoderBlock(GradientCheckpointingLayer):
    """Attention and MLP, each in a residual branch: ``x + f(norm(x))`` (pre) or ``norm(x + f(x))`` (post)."""

    def __init__(self, config: EncoderConfig, attention: AttentionLayer):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.attention_norm = make_norm(config)
        self.attention = attention
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None = None,
        output_attentions: bool = False,
    ) -> torch.Tensor:
        attended = self.attention_norm(hidden_states) if self.pre_norm else hidden_states
        attended, _ = self.attention(attended, sequence, cache=cache, output_attentions=output_attentions)
        return self.finish(hidden_states, attended)

    def finish(self, hidden_states: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The block's output, of what came in and what attention made of it."""
        hidden_states = hidden_states + self.dropout(attended)
        if self.pre_norm:
            return hidden_states + self.mlp(self.mlp_norm(hidden_states))
        hidden_states = self.attention_norm(hidden_states)
        return self.mlp_norm(hidden_states + self.mlp(hidden_states))


class EncoderPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation. A family derives from it and names its config and its attention."""

    config: EncoderConfig
    config_class = EncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderBlock"]
    #: The attention module of the family, called with the config and the index of the layer. Its forward takes
    #: (hidden_states, sequence, cache, output_attentions) and returns the output and the attention map or None.
    attention_class: ClassVar[type[Any]]
    block_class: ClassVar[type[EncoderBlock]] = EncoderBlock
    #: The operator of `backends` that the attention runs.
    attention_operator: ClassVar[str]

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LearnedPositions):
            init.zeros_(module.weight)
        elif isinstance(module, ScaleNorm):
            init.ones_(module.weight)
        elif isinstance(module, KeyValueFilter) and module.weight is not None:
            # As torch starts a convolution with one channel per group, which is what the authors use.
            bound = module.kernel_size**-0.5
            init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, AttentionLayer):
            module.reset()
        elif isinstance(module, LearnedMemory):
            init.normal_(module.cells)
        else:
            super()._init_weights(module)
        if isinstance(module, Embeddings) and module.config.num_channels is not None:
            init.normal_(module.cls, std=self.config.initializer_range)

    @property
    def _is_stateful(self) -> bool:  # type: ignore[override]
        """Whether a cache holds states that cannot be rolled back, as speculative decoding would need."""
        return set(self.config.layer_types) != {"full_attention"}

    @property
    def attention_width(self) -> int:
        """Features or values per head, whichever are more, as the operator meets them."""
        return self.config.hidden_size // self.config.num_attention_heads

    def effattn_report(self) -> dict[str, Any]:
        """Which backend every attention layer runs, for the model's present devices and dtype, and why not others.

        The devices are those that the layers run on, also where their weights are offloaded; ``"device"`` and
        ``"backends"`` are about the first layer.
        """
        requested, operator = attention_backend(self.config), self.attention_operator
        base = self if isinstance(self, EncoderModel) else self.model
        devices = [execution_device(layer) or self.device for layer in base.layers]
        first = devices[0] if devices else self.device
        found = [resolve_backend(operator, requested, at, self.dtype, self.attention_width).name for at in devices]
        return {
            "operator": operator,
            "requested": requested,
            "device": str(first),
            "dtype": str(self.dtype),
            "layers": dict(enumerate(found)),
            "backends": backends(first, self.dtype, self.attention_width)[operator],
        }


def attention_backend(config: EncoderConfig) -> str:
    """The backend that the config asks for: `attention_backend`, or what `attn_implementation` stands for.

    transformers' ``attn_implementation="eager"`` asks a softmax model for the plain form, our ``"reference"``. A
    family without softmax has no implementation to choose there; transformers calls it eager.
    """
    eager = config.softmax and config._attn_implementation == "eager"
    return "reference" if config.attention_backend == "auto" and eager else config.attention_backend


class EncoderModel(EncoderPreTrainedModel):
    """Embeddings, blocks and, with pre-norm, a last norm. Encoder, or decoder with ``is_decoder=True``."""

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        # Again, because a head or a user may have changed the direction of a config that was made before.
        config.validate_architecture()
        self.embeddings = Embeddings(config)
        attentions = (self.attention_class(config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(self.block_class(config, attention) for attention in attentions)
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        if config.num_channels is not None:
            self.main_input_name = "pixel_values"
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.content

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.set_content(value)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> EncoderOutput:
        """Hidden states of a batch of sequences.

        Args:
            input_ids: ``[batch, length]`` int64. Exactly one of `input_ids`, `inputs_embeds`, `pixel_values`.
            attention_mask: ``[batch, length]``, nonzero for a real token, on either side; with a cache, preceded
                by the mask of the cached positions. None means that every token is real.
            position_ids: ``[batch or 1, length]``; by default the real tokens of a row are numbered from zero, so
                that left padding, right padding and none give the same result.
            cache: a decoder's state from earlier calls (``transformers.DynamicCache(config=model.config)``).
            inputs_embeds: ``[batch, length, hidden]``, in place of the token embeddings.
            pixel_values: ``[batch, channels, height, width]``, read in raster order behind a CLS vector.
            use_cache: whether a decoder makes and returns a cache; False while training.
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`; in training also
                ``keep_features=True``, for a call that shares its backward pass with the one before: random features
                are not drawn anew in between.

        Raises:
            ValueError: inputs that are missing, doubled, empty, too long or out of range; a mask whose shape does
                not fit; a cache that does not fit, or any cache for an encoder.
            TypeError: an unknown argument.
        """
        if unknown := kwargs.keys() - _FORWARD_KEYS:
            raise TypeError(f"{type(self).__name__}.forward got unknown arguments {sorted(unknown)}")
        if self.training and not kwargs.get("keep_features"):
            self.before_training_pass()
        content = self._content(input_ids, inputs_embeds, pixel_values)
        if cache is None and use_cache and self.config.is_decoder and not self.training:
            cache = DynamicCache(config=self.config)
        sequence = self._sequence(content, attention_mask, cache)
        position_ids = self._positions(position_ids, sequence)
        outputs = self.encode(
            self.embeddings(content, position_ids),
            sequence,
            cache,
            output_attentions=kwargs.get("output_attentions", self.config.output_attentions) or False,
            output_hidden_states=kwargs.get("output_hidden_states", self.config.output_hidden_states) or False,
        )
        outputs.cache = cache
        if self.training:
            outputs.aux_loss = self.penalty()
        return outputs

    def encode(
        self,
        hidden_states: torch.Tensor,
        sequence: SequenceInfo,
        cache: Cache | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> EncoderOutput:
        """The blocks over embedded tokens ``[batch, length, hidden]``. A family with a memory carries it through."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, sequence, cache=cache, output_attentions=output_attentions)
        return EncoderOutput(last_hidden_state=self.norm(hidden_states))

    def _positions(self, position_ids: torch.Tensor | None, sequence: SequenceInfo) -> torch.Tensor:
        """Which learned position every token gets, ``[batch or 1, length]``."""
        return (sequence.token_counts - 1).clamp(min=0) if position_ids is None else position_ids

    def before_training_pass(self) -> None:
        """Called at the start of forward calls in training, but for those with `keep_features` and recomputed ones."""

    def attentions(self) -> list[Any]:
        """The attention module of every layer."""
        return [layer.attention for layer in self.layers]

    def penalty(self) -> torch.Tensor | None:
        """The sum of what the attention layers add to the loss, or None. It depends on their parameters alone."""
        penalties = [attention.penalty() for attention in self.attentions()]
        given = [penalty for penalty in penalties if penalty is not None]
        # The layers may be spread over several devices.
        return torch.stack([penalty.to(given[0].device) for penalty in given]).sum() if given else None

    def _content(self, input_ids, inputs_embeds, pixel_values) -> torch.Tensor:
        """Embedded tokens or pixels, without positions."""
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
        length = value.shape[1] if pixel_values is None else 1 + value.shape[2] * value.shape[3]
        limit = self.config.max_input_length
        if limit is not None and length > limit:
            raise ValueError(
                f"the input has {length} positions, more than max_position_embeddings={limit}; "
                "truncate it (tokenizer(..., truncation=True)) or train with a larger max_position_embeddings"
            )
        if pixel_values is not None:
            return self.embeddings(pixel_values)
        return self.embeddings.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds

    def _sequence(self, content, attention_mask, cache: Cache | None) -> SequenceInfo:
        batch, length = content.shape[:2]
        if attention_mask is not None and not isinstance(attention_mask, torch.Tensor):
            raise ValueError(
                f"attention_mask must be a tensor [batch, length], got {type(attention_mask).__name__}; generate "
                'makes other masks for a static cache, use cache_implementation="dynamic"'
            )
        past_length, past_counts = self._past(cache, attention_mask, length)
        if past_counts is not None:
            past_counts = past_counts.to(content.device)
        if attention_mask is not None:
            attention_mask = check_attention_mask(attention_mask, batch, past_length, length, cache is not None)
        own_mask = None if attention_mask is None else attention_mask[:, -length:]
        if own_mask is None:
            token_counts = torch.arange(1, length + 1, device=content.device)[None]
        else:
            token_counts = own_mask.long().cumsum(-1)
        if past_counts is not None:
            token_counts = token_counts + past_counts
        return SequenceInfo(length, attention_mask, token_counts, token_counts[:, -1:])

    def _past(self, cache, attention_mask, length: int) -> tuple[int, torch.Tensor | None]:
        """Positions that the cache keeps one by one, and how many real tokens every row has seen before."""
        if cache is None:
            return 0, None
        if not self.config.is_decoder:
            raise ValueError(
                "a cache only works with is_decoder=True: a bidirectional encoder needs all tokens at once"
            )
        if "full_attention" not in self.config.layer_types:
            check_recurrent_cache(cache, self.config.layer_types)
        if self.config.cache_type == "linear_attention":
            return 0, cached_token_count(cache)
        if any(isinstance(layer, StaticLayer) for layer in cache.layers):
            raise ValueError(
                "a static cache hands out slots that hold no keys yet: use "
                'transformers.DynamicCache(config=model.config), in generate cache_implementation="dynamic"'
            )
        past_length = cache.get_seq_length()
        if attention_mask is None:
            return past_length, torch.tensor([[past_length]])
        return past_length, attention_mask[:, :-length].ne(0).sum(-1, keepdim=True)
