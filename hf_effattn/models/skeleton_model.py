"""The skeleton of every family: what a sequence is, the block, and the model without a head."""

from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .backend_table import backends, check_backend_name, resolve_backend
from .base_compat import CACHE_NAME, CheckpointedLayer, takes_both_cache_names
from .base_module_hooks import execution_device
from .base_sequence import SequenceInfo, check_attention_mask
from .cache_past import Past
from .configuration_effattn import EffAttnConfig
from .layer_attention import AttentionLayer, refuse_long_map
from .layer_common import MLP, Embeddings, LearnedPositions, ScaleNorm, make_dropout, make_norm
from .layer_filters import KeyValueFilter
from .layer_learned_memory import LearnedMemory
from .skeleton_initial_weights import start_linear, start_pixels, start_tokens
from .skeleton_inputs import check_content, check_names, check_position_ids, check_token_types
from .skeleton_outputs import EffAttnOutput


class EffAttnBlock(CheckpointedLayer):
    """Attention and MLP, each in a residual branch: ``x + f(norm(x))`` (pre) or ``norm(x + f(x))`` (post).

    With `block_skip` the block's input is added to the second sum as well: ``x_1 + f(norm(x_1)) + x_0`` (pre) or
    ``norm(x_1 + f(x_1) + x_0)`` (post), where ``x_1`` is what the attention's branch gave.
    """

    def __init__(self, config: EffAttnConfig, attention: AttentionLayer):
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.attention_norm = make_norm(config)
        self.attention = attention
        self.dropout = make_dropout(config, "attention_output_dropout_prob")
        self.block_skip = config.block_skip
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
        between = hidden_states + self.dropout(attended)
        if not self.pre_norm:
            between = self.attention_norm(between)
        output = between + self.mlp(self.mlp_norm(between) if self.pre_norm else between)
        if self.block_skip:
            output = output + hidden_states
        return output if self.pre_norm else self.mlp_norm(output)


class EffAttnPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation. A family derives from it and names its config and its attention."""

    config: EffAttnConfig
    config_class = EffAttnConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EffAttnBlock"]
    #: The attention module of the family, called with the config and the index of the layer. Its forward takes
    #: (hidden_states, sequence, cache, output_attentions) and returns the output and the attention map or None.
    attention_class: ClassVar[type[Any]]
    block_class: ClassVar[type[EffAttnBlock]] = EffAttnBlock
    #: The operator of `backends` that the attention runs.
    attention_operator: ClassVar[str]

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        # The whole again, because a head or a user may have changed a config after it was made.
        config.validate()
        check_backend_name(self.attention_operator, config.attention_backend)

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
        elif self.config.init_scheme == "normal":
            super()._init_weights(module)
            if isinstance(module, Embeddings) and module.config.num_channels is not None:
                init.normal_(module.cls, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            start_linear(module)
        elif isinstance(module, nn.Embedding):
            start_tokens(module, self.config)
        elif isinstance(module, Embeddings) and module.config.num_channels is not None:
            start_pixels(module.pixels, module.cls)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(
        cls, *args: Any, ignore_mismatched_sizes: bool = False, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """`transformers.PreTrainedModel.from_pretrained`, which may give layers of another size new weights.

        Raises:
            ValueError: `ignore_mismatched_sizes` would set every learned position to zero.
        """
        if not ignore_mismatched_sizes:
            return super().from_pretrained(*args, output_loading_info=output_loading_info, **kwargs)
        load = cast(Any, super().from_pretrained)
        model, info = load(*args, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs)
        for name, stored, wanted in info["mismatched_keys"]:
            if name.endswith("embeddings.positions.weight"):
                number = model.config.max_position_embeddings
                raise ValueError(
                    f"the checkpoint has {stored[0]} learned positions and the config asks for {wanted[0]}: "
                    "ignore_mismatched_sizes would set all of them to zero. Load it with its own "
                    f"max_position_embeddings, and call model.resize_position_embeddings({number})"
                )
        return (model, info) if output_loading_info else model

    def get_position_embeddings(self) -> nn.Embedding:
        """The table of learned positions."""
        return self.base_model.embeddings.positions  # type: ignore[union-attr, return-value]

    def resize_position_embeddings(self, new_num_position_embeddings: int) -> nn.Embedding:
        """Give the model more or fewer positions, in place, and return their table.

        Positions that stay keep their weights. New ones are zero, as all are at first, and so have to be trained.

        Raises:
            ValueError: a number that the config refuses, such as one below the `segment_length` of a memory.
        """
        config, old = self.config, self.get_position_embeddings()
        before, config.max_position_embeddings = config.max_position_embeddings, new_num_position_embeddings
        try:
            config.validate()
        except Exception:
            config.max_position_embeddings = before
            raise
        # A table may leave out position 0, see `cls_position`.
        rows = old.num_embeddings + new_num_position_embeddings - before
        new = LearnedPositions(rows, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
        new.requires_grad_(old.weight.requires_grad)
        kept = min(old.num_embeddings, rows)
        with torch.no_grad():
            new.weight.zero_()
            new.weight[:kept] = old.weight[:kept]
        self.base_model.embeddings.positions = new  # type: ignore[union-attr]
        return new

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
        base = self if isinstance(self, EffAttnModel) else self.model
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


def attention_backend(config: EffAttnConfig) -> str:
    """The backend that the config asks for: `attention_backend`, or what `attn_implementation` stands for.

    transformers' ``attn_implementation="eager"`` asks a softmax model for the plain form, our ``"reference"``. A
    family without softmax has no implementation to choose there; transformers calls it eager.
    """
    eager = config.softmax and config._attn_implementation == "eager"
    return "reference" if config.attention_backend == "auto" and eager else config.attention_backend


class EffAttnModel(EffAttnPreTrainedModel):
    """Embeddings, blocks and a last norm if the config has one. Encoder, or decoder with ``is_decoder=True``."""

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        attentions = (self.attention_class(config, layer_idx) for layer_idx in range(config.num_hidden_layers))
        self.layers = nn.ModuleList(self.block_class(config, attention) for attention in attentions)
        self.norm = make_norm(config) if config.has_last_norm else nn.Identity()
        self.gradient_checkpointing = False
        if config.num_channels is not None:
            self.main_input_name = "pixel_values"
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.content

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.set_content(value)

    @takes_both_cache_names
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
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> EffAttnOutput:
        """Hidden states of a batch of sequences. Everything is checked first: a refused call changes no cache.

        Args:
            input_ids: ``[batch, length]`` integers. Exactly one of `input_ids`, `inputs_embeds`, `pixel_values`.
            attention_mask: ``[batch, length]``, bool or zeros and ones, 1 for a real token, on either side; with a
                cache, preceded by the mask of the cached positions. None means that every token is real. Padding is
                set to zero before anything reads it, NaN included. In graphs, see `check_attention_mask`.
            position_ids: ``[batch or 1, length]``, rising from token to token; by default the real tokens of a row
                are numbered from zero, so that left padding, right padding and none give the same result.
            cache: a decoder's state from earlier calls (``transformers.DynamicCache(config=model.config)``), with as
                many rows as the input; also under its old name `past_key_values`.
            inputs_embeds: ``[batch, length, hidden]``, in place of the token embeddings.
            pixel_values: ``[batch, channels, height, width]``, read in raster order behind a CLS vector. A model of
                one channel takes three that are equal, as grey pictures are in RGB.
            use_cache: whether a decoder makes and returns a cache; False while training.
            token_type_ids: ``[batch, length]``, of one segment per row, as tokenizers of BERT's kind return for single
                texts. It changes nothing; several segments are refused.
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`; in training also
                ``keep_features=True``, for a call that shares its backward pass with the one before: random features
                are not drawn anew in between. What generic code passes to any model is taken without effect:
                `cache_position`, `output_router_logits`, `tokenizer`.

        Raises:
            ValueError: inputs that are missing, doubled, empty, too long, too wide or out of range; a mask that is not
                one of real tokens; packed documents; a cache that does not fit, or any cache for an encoder.
            TypeError: an unknown argument.
        """
        check_names(type(self).__name__, kwargs, self.config)
        given = check_content(self.config, input_ids, inputs_embeds, pixel_values)
        batch, length = given.shape[:2]
        if pixel_values is not None:
            length = 1 + pixel_values.shape[2] * pixel_values.shape[3]
        if cache is None and use_cache and self.config.is_decoder and not self.training:
            cache = DynamicCache(config=self.config)
        past = Past.of(cache, self.config)
        past.check_rows(batch)
        sequence = _sequence(batch, length, given.device, attention_mask, past)
        if position_ids is not None:
            check_position_ids(position_ids, batch, length, sequence)
        if token_type_ids is not None:
            check_token_types(token_type_ids, batch, length, sequence.key_mask, given.device)
        output_attentions = kwargs.get("output_attentions", self.config.output_attentions) or False
        content = self._content(given, sequence.key_mask)
        if cache is not None:
            self._check_layers(content, past, output_attentions)
        position_ids = self._positions(position_ids, sequence)
        if self.training and not kwargs.get("keep_features"):
            self.before_training_pass()
        outputs = self.encode(
            self.embeddings(content, position_ids),
            sequence,
            cache,
            output_attentions=output_attentions,
            output_hidden_states=kwargs.get("output_hidden_states", self.config.output_hidden_states) or False,
        )
        setattr(outputs, CACHE_NAME, cache)
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
    ) -> EffAttnOutput:
        """The blocks over embedded tokens ``[batch, length, hidden]``. A family with a memory carries it through."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, sequence, cache=cache, output_attentions=output_attentions)
        return EffAttnOutput(last_hidden_state=self.norm(hidden_states))

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

    def _content(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Ids (2-D), embedded tokens (3-D) or pixels (4-D) as ``[batch, length, hidden]``, zero where `mask` is False.

        Pixels are zeroed before they are embedded: the gradient of their weight multiplies by them.
        """
        if given.dim() == 4:
            if mask is not None:
                real = mask[:, 1:].view(mask.shape[0], 1, *given.shape[2:])
                given = given.masked_fill(~real, 0)
            content = self.embeddings(given)
        else:
            content = self.embeddings.embed_tokens(given) if given.dim() == 2 else given
        return content if mask is None else content.masked_fill(~mask[..., None], 0)

    def _check_layers(self, content: torch.Tensor, past: Past, output_attentions: bool) -> None:
        """Raise, before the first layer writes to a cache, what any layer would raise after it has."""
        if not torch.compiler.is_compiling():
            place = content.device, content.dtype, self.attention_width
            resolve_backend(self.attention_operator, attention_backend(self.config), *place)
        if output_attentions:
            length, has_state = content.shape[1], past.counts is not None and past.rows is not None
            refuse_long_map(length, self._map_keys(past.length + length), has_past=has_state)

    def _map_keys(self, length: int) -> int:
        """The keys of an attention map over `length` tokens, of a family that can be a decoder."""
        return length


def _sequence(
    batch: int, length: int, device: torch.device, attention_mask: torch.Tensor | None, past: Past
) -> SequenceInfo:
    """What the layers have to know of a sequence, counted once."""
    if attention_mask is not None and not isinstance(attention_mask, torch.Tensor):
        raise ValueError(
            f"attention_mask must be a tensor [batch, length], got {type(attention_mask).__name__}; generate "
            'makes other masks for a static cache, use cache_implementation="dynamic"'
        )
    if attention_mask is not None:
        attention_mask = check_attention_mask(attention_mask, batch, past.length, length, past.counts)
    token_counts = torch.arange(1, length + 1, device=device)[None]
    if attention_mask is not None:
        token_counts = attention_mask[:, -length:].long().cumsum(-1)
    if past.counts is not None:
        token_counts = token_counts + past.counts.to(device)
    elif past.length > 0:
        seen = past.length if attention_mask is None else attention_mask[:, :-length].sum(-1, keepdim=True)
        token_counts = token_counts + seen
    return SequenceInfo(length, attention_mask, token_counts, token_counts[:, -1:])
