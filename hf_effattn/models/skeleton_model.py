"""The skeleton of every family: loading, saving and first weights, and the model without a head."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .backend_table import backends, check_backend_name, resolve_backend
from .base_compat import CACHE_NAME, takes_both_cache_names
from .base_module_hooks import execution_device
from .base_sequence import SequenceInfo
from .cache_tokens import CachedTokens
from .configuration_effattn import EffAttnConfig
from .layer_attention import SelfAttention, refuse_long_map
from .layer_embeddings import Embeddings, LearnedPositions
from .layer_norms import make_norm
from .skeleton_block import EffAttnBlock
from .skeleton_initial_weights import StartsItself, start_linear, start_tokens
from .skeleton_inputs import check_content, check_names, check_sequence
from .skeleton_outputs import EffAttnOutput
from .skeleton_returns import with_output_form


class EffAttnPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation. A family derives from it and names its config and its attention."""

    config: EffAttnConfig
    config_class = EffAttnConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EffAttnBlock"]
    #: The attention of a family whose blocks are `EffAttnBlock`.
    attention_class: ClassVar[type[SelfAttention]]
    #: The operator of `backends` that the attention runs.
    attention_operator: ClassVar[str]
    #: Whether reentrant gradient checkpointing finds every tensor that has a gradient among a block's positional
    #: arguments and outputs. It looks nowhere else.
    reentrant_checkpointing: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have the code of a family's class copied into its checkpoints, for the Auto class that loads it."""
        super().__init_subclass__(**kwargs)
        if cls.__name__ in (auto_classes := {name: auto for auto, name in cls.config_class.class_names().items()}):
            cls._auto_class = auto_classes[cls.__name__]

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        # The whole again, because a head or a user may have changed a config after it was made.
        config.validate()
        check_backend_name(self.attention_operator, config.attention_backend)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, StartsItself):
            module.start_weights(self.config)
        elif self.config.init_scheme != "normal" and isinstance(module, nn.Linear):
            start_linear(module)
        elif self.config.init_scheme != "normal" and isinstance(module, nn.Embedding):
            start_tokens(module, self.config)
        else:
            super()._init_weights(module)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As in transformers, but a form of checkpointing that would lose gradients is refused."""
        options = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and not self.reentrant_checkpointing and options.get("use_reentrant", True):
            raise ValueError(
                f"reentrant gradient checkpointing would lose gradients of {type(self).__name__}, whose blocks read "
                'and return lists of tensors: pass gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, *args, **kwargs)

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
        requested, operator = self.config.resolved_backend, self.attention_operator
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


class EffAttnModel(EffAttnPreTrainedModel):
    """Embeddings, blocks and a last norm if the config has one. Encoder, or decoder with ``is_decoder=True``."""

    #: Whether the next call belongs to the training pass of the one before, see `same_training_pass`.
    continues_pass = False

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(self.build_block(config, index) for index in range(config.num_hidden_layers))
        self.norm = make_norm(config) if config.has_last_norm else nn.Identity()
        self.gradient_checkpointing = False
        self.build_extra(config)
        if config.num_channels is not None:
            self.main_input_name = "pixel_values"
        self.post_init()

    def build_block(self, config: Any, layer_idx: int) -> nn.Module:
        """The block of one layer. Families whose blocks have another signature override this and `encode`."""
        return EffAttnBlock(config, self.attention_class(config, layer_idx))

    def build_extra(self, config: Any) -> None:
        """Build the modules that a family has beside the shared ones; called once, before `post_init`."""

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.content

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.set_content(value)

    @takes_both_cache_names
    @with_output_form
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
            **kwargs: `output_attentions`, `output_hidden_states`, `return_dict`. Some that generic code passes to any
                model have no effect: `cache_position`, `output_router_logits`, `tokenizer`.

        Raises:
            ValueError: inputs that are missing, doubled, empty, too long, too wide or out of range; a mask that is not
                one of real tokens; packed documents; a cache that does not fit, or any cache for an encoder.
            TypeError: an unknown argument.
        """
        check_names(type(self).__name__, kwargs, self.config)
        given = check_content(self.config, input_ids, inputs_embeds, pixel_values)
        if cache is None and use_cache and self.config.is_decoder and not self.training:
            cache = DynamicCache(config=self.config)
        cached = CachedTokens.read(cache, self.config)
        sequence = check_sequence(given, attention_mask, position_ids, token_type_ids, cached)
        output_attentions = kwargs.get("output_attentions", self.config.output_attentions) or False
        output_hidden_states = kwargs.get("output_hidden_states", self.config.output_hidden_states) or False
        content = self._content(given, sequence.key_mask)
        if cache is not None:
            self._check_layers(content, cached, output_attentions)
        embedded = self.embeddings(content, self._positions(position_ids, sequence))
        outputs = self.encode(embedded, sequence, cache, output_attentions, output_hidden_states)
        setattr(outputs, CACHE_NAME, cache)
        if self.training and torch.is_grad_enabled() and cache is None and not self.continues_pass:
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

    def penalty(self) -> torch.Tensor | None:
        """What a family adds to the loss beside the labels' part, or None. It depends on parameters only."""
        return None

    @contextmanager
    def same_training_pass(self) -> Iterator[None]:
        """Calls inside belong to the training pass of the call before them: all of them share one backward pass.

        A classifier of pairs encodes its second text so. Random features then stay those of the first text, and the
        penalty is not computed again.
        """
        self.continues_pass = True
        try:
            yield
        finally:
            self.continues_pass = False

    def _content(self, given: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Ids (2-D), embedded tokens (3-D) or pixels (4-D) as ``[batch, length, hidden]``, zero where `mask` is False.

        Pixels are zeroed before they are embedded: the gradient of their weight multiplies by them.
        """
        if given.dim() == 4:
            if mask is not None:
                real = mask[:, 1:].view(mask.shape[0], 1, *given.shape[2:])
                given = given.masked_fill(~real, 0)
            content: torch.Tensor = self.embeddings(given)
        else:
            content = self.embeddings.embed_tokens(given) if given.dim() == 2 else given
        return content if mask is None else content.masked_fill(~mask[..., None], 0)

    def _check_layers(self, content: torch.Tensor, cached: CachedTokens, output_attentions: bool) -> None:
        """Raise, before the first layer writes to a cache, what any layer would raise after it has."""
        if not torch.compiler.is_compiling():
            place = content.device, content.dtype, self.attention_width
            resolve_backend(self.attention_operator, self.config.resolved_backend, *place)
        if output_attentions:
            length, has_state = content.shape[1], cached.counts is not None and cached.rows is not None
            refuse_long_map(length, self._map_keys(cached.length + length), has_past=has_state)

    def _map_keys(self, length: int) -> int:
        """The keys of an attention map over `length` tokens, of a family that can be a decoder."""
        return length
