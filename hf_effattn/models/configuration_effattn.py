"""What every config shares: fields and their checks, what describes a family, and the classes that load it."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, ClassVar, Literal

from transformers import GenerationConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from .backend_table import known_backends
from .base_versions import CODE_VERSION, note_other_code
from .configuration_checks import FieldTypeError, FieldValueError, check_dtype, check_number, strict_config


#: Auto class -> the suffix of the class that it loads. A family without a causal form has no ``ForCausalLM``.
HEADS = {
    "AutoModel": "Model",
    "AutoModelForMaskedLM": "ForMaskedLM",
    "AutoModelForCausalLM": "ForCausalLM",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
    "AutoModelForMultipleChoice": "ForMultipleChoice",
    "AutoModelForImageClassification": "ForImageClassification",
}

#: Where a config.json says which version of hf_effattn wrote it.
VERSION_KEY = "hf_effattn_version"

#: Keyword arguments that transformers itself passes to a config, beside the declared fields.
_TRANSFORMERS_KEYS = frozenset(
    [
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "quantization_config",
        "tie_last_hidden_states",
        "torch_dtype",
    ]
)


@strict_config
class EffAttnConfig(PreTrainedConfig):
    """What every family shares: sizes, embeddings, norms, pooling, heads. The defaults are those of BERT-base.

    Args:
        vocab_size: number of token ids; the default is that of the byte tokenizer.
        hidden_size: width of the residual stream; a multiple of `num_attention_heads`.
        num_hidden_layers: number of blocks.
        num_attention_heads: heads per attention layer.
        intermediate_size: width of the MLP.
        hidden_act: activation of the MLP and of the heads, a name of `transformers.activations.ACT2FN`.
        hidden_dropout_prob: dropout after both MLP layers and, where the next three are None, in their places.
        embedding_dropout_prob: dropout on the embeddings.
        attention_output_dropout_prob: dropout on the attention output, in front of the residual sum.
        classifier_dropout: dropout in front of the task heads.
        attention_probs_dropout_prob: dropout inside the attention; each family says where.
        max_position_embeddings: the longest input.
        cls_position: whether position 0 has a learned vector like all others. False is the authors' form: a [CLS] in
            front is a vector of its own without a position, and the table has a row less.
        layer_norm_eps: epsilon of every norm.
        init_scheme: how weights start. ``"normal"``: N(0, initializer_range), biases at zero. ``"authors"``: as in
            their code, see `skeleton_initial_weights`; ``"authors_2021"`` is the same, but its [CLS] starts at zero.
        initializer_range: standard deviation of linear and token embedding weights with ``init_scheme="normal"``.
        norm_position: ``"pre"`` (norm before each sublayer) or ``"post"`` (after each residual sum).
        embedding_norm: whether a norm follows the embeddings; None means with ``"post"`` only.
        last_norm: whether a norm follows the last block; None means with ``"pre"`` only.
        block_skip: whether the input of a block is added once more at its end, to what its MLP and its residual
            branches gave, before the last norm of ``"post"``.
        norm_type: ``"layer_norm"``, ``"rms_norm"``, or ``"scale_norm"`` (an RMS norm with one learned gain for
            all channels, as in Luna and Mega).
        pooling: what a classifier reads: ``"cls"`` (first real token), ``"last"`` (last real token), ``"mean"``
            (mean over real tokens) or, in families with a memory, ``"memory"`` (mean over its cells). None means
            ``"last"`` for a decoder and ``"cls"`` otherwise.
        num_channels: channels of a pixel. If set, the model reads `pixel_values` as a sequence of pixels in
            raster order instead of token ids.
        classifier_hidden_size: widths of the hidden layers of the classification heads, an empty list for none. A
            number, `intermediate_size` if None, is the width of one layer; for pairs a second of half of it follows.
        classifier_act: activation of the classification heads, `hidden_act` if None.
        pair_features: if set, `ForSequenceClassification` classifies pairs, and reads of their two pooled vectors
            u and v: ``"concat"`` ([u, v], the authors' form) or ``"interaction"`` ([u, v, u * v, u - v]).
        is_decoder: whether attention is causal. `ForCausalLM` sets it, `ForMaskedLM` clears it.
        use_cache: whether a decoder returns its state outside of training, if it is not given labels.
        attention_backend: ``"auto"``, or a backend by name, see `hf_effattn.backends()`. A checkpoint that names one
            that this version does not know opens with ``from_pretrained(..., attention_backend="auto")``.
        pad_token_id: id of padding, whose embedding starts at zero; only a language modelling head that shares the
            embedding trains it, and no real token ever reads it.
        bos_token_id: id that starts a text.
        eos_token_id: id that ends a generated text.
        tie_word_embeddings: whether the language modelling heads share the weights of the token embedding.

    A wrong value of one field is refused when it is assigned. Whether the values go together is checked at
    construction, and again when a model is built and when the config or a model is saved, because fields can change.

    Raises:
        TypeError: an unknown field (the message names the nearest one), or a value of a wrong type.
        ValueError: a value that its field cannot have, or values that clash; the message names both.

    Most of these are also a `huggingface_hub.errors.StrictDataclassError`, see `configuration_checks`.
    """

    vocab_size: int = 260
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    embedding_dropout_prob: float | int | None = None
    attention_output_dropout_prob: float | int | None = None
    classifier_dropout: float | int | None = None
    attention_probs_dropout_prob: float | int = 0.0
    max_position_embeddings: int = 4096
    cls_position: bool = True
    layer_norm_eps: float = 1e-6
    init_scheme: Literal["normal", "authors", "authors_2021"] = "normal"
    initializer_range: float = 0.02
    norm_position: Literal["pre", "post"] = "pre"
    embedding_norm: bool | None = None
    last_norm: bool | None = None
    block_skip: bool = False
    norm_type: Literal["layer_norm", "rms_norm", "scale_norm"] = "layer_norm"
    pooling: Literal["cls", "last", "mean", "memory"] | None = None
    num_channels: int | None = None
    classifier_hidden_size: int | list[int] | None = None
    classifier_act: str | None = None
    pair_features: Literal["concat", "interaction"] | None = None
    is_decoder: bool = False
    use_cache: bool = True
    attention_backend: str = "auto"
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = True

    # Fields of transformers, declared again with types that `@strict` checks: it passes over those that are strings.
    # The numbers of labels are checked by `validate_labels`.
    architectures: list[str] | None = None
    return_dict: bool | None = True
    chunk_size_feed_forward: int = 0
    id2label: dict[Any, str] | None = None
    label2id: dict[str, Any] | None = None
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None

    # What describes a family is a class attribute, and no field. `hf_effattn.list_families()` reads it.
    #: The name in front of the family's classes, ``"SimpleTron"`` for ``SimpleTronModel``; empty for a shared base.
    family_name: ClassVar[str] = ""
    #: The formula of its attention, per head.
    formula: ClassVar[str] = ""
    #: Time of one attention layer in the length `N` and the head size `d`.
    cost: ClassVar[str] = ""
    #: The paper it comes from.
    source: ClassVar[str] = ""
    #: Whether the family can be a decoder.
    causal: ClassVar[bool] = True
    #: Whether what a decoder keeps has the same size however long its context grows.
    constant_state: ClassVar[bool] = False
    #: Whether attention is a softmax, so that transformers' `attn_implementation` has something to choose.
    softmax: ClassVar[bool] = False
    #: Whether the family has a memory that a classifier can read.
    has_memory: ClassVar[bool] = False

    #: The lowest values of numbers that `check_number` would limit otherwise.
    lowest_values: ClassVar[dict[str, float]] = {
        "num_hidden_layers": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "cache",
        "past_key_values",
        "aux_loss",
        "memory",
        "pack_attentions",
    ]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have the code of a family's config copied into its checkpoints, for `AutoConfig`."""
        super().__init_subclass__(**kwargs)
        if cls.family_name:
            cls._auto_class = "AutoConfig"

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_unknown(kwargs, kwargs.pop(VERSION_KEY, None))
        self._check_new_labels(kwargs.get("num_labels"))
        if self.family_name and kwargs.get("auto_map") is None:
            kwargs["auto_map"] = auto_map(type(self))
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CLASS_ATTRIBUTES:
            raise FieldTypeError(f"{type(self).__name__} has no field {name!r}: it belongs to the family")
        if name in _field_names(type(self)):
            check_number(self, name, value)
            if name == "dtype":
                check_dtype(value)
        elif name == "num_labels":
            # transformers makes the names of that many labels, whatever the number is.
            if not isinstance(value, int) or isinstance(value, bool):
                raise FieldTypeError(f"num_labels must be an integer, got {value!r}")
            if value < 1:
                raise FieldValueError(f"num_labels must be positive, got {value}")
        super().__setattr__(name, value)

    @classmethod
    def class_names(cls) -> dict[str, str]:
        """Auto class -> name of the family's class, for every head that the family has."""
        heads = {auto: suffix for auto, suffix in HEADS.items() if cls.causal or auto != "AutoModelForCausalLM"}
        return {auto: cls.family_name + suffix for auto, suffix in heads.items()}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but fields among `kwargs` replace those of `config_dict` before the whole is checked.

        New labels replace the old ones, whether they are given by `num_labels` or by `id2label`. A checkpoint that was
        written by another version of hf_effattn than reads it is spoken of.
        """
        note_other_code(config_dict.get(VERSION_KEY), cls.__module__)
        # transformers itself knows what dtype="auto" stands for.
        given = {name: kwargs.pop(name) for name in kwargs.keys() & _field_names(cls) - {"dtype"}}
        stored = config_dict.get("id2label") or {}
        if "id2label" in given or kwargs.get("num_labels", len(stored)) != len(stored):
            replaced = ("id2label", "label2id", "num_labels")
            config_dict = {name: value for name, value in config_dict.items() if name not in replaced}
        return super().from_dict(config_dict | given, **kwargs)

    def _refuse_unknown(self, names: Iterable[str], written_by: str | None = None) -> None:
        generation = GenerationConfig._get_default_generation_params()
        for name in names:
            if name.startswith("_") or name in _TRANSFORMERS_KEYS or name in generation:
                continue
            near = difflib.get_close_matches(name, _field_names(type(self)), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its fields are {sorted(_field_names(type(self)))}."
            if written_by not in (None, CODE_VERSION):
                hint += f" The config was written by hf_effattn {written_by}, and this is {CODE_VERSION}."
            raise TypeError(f"{type(self).__name__} has no field {name!r}; {hint}")

    def _check_new_labels(self, num_labels: int | None) -> None:
        """Refuse labels that transformers would replace by made-up ones."""
        if self.id2label is None:
            _require(
                _made_up(self.label2id),
                f"label2id={self.label2id} needs id2label, the dictionary from the number of a label to its name",
            )
        else:
            count = len(_label_names(self.id2label))
            _require(
                num_labels in (None, count),
                f"num_labels={num_labels} clashes with the {count} labels of id2label={self.id2label}",
            )

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the version of the code under `hf_effattn_version`."""
        return super().to_dict() | {VERSION_KEY: CODE_VERSION}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in transformers, but a config that could not be loaded again is refused before anything is written.

        Attributes that are no fields are refused as well. A model can be built with them, because transformers and
        other libraries set some that a model may or may not read.

        Raises:
            TypeError: an attribute that is no field; the message names the nearest field.
            ValueError: as at construction.
        """
        self._refuse_unknown(vars(self).keys() - _field_names(type(self)))
        self.validate()
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    def validate_choices(self) -> None:
        """Refuse an activation or a backend that does not exist."""
        for name in ("hidden_act", "classifier_act"):
            activation = getattr(self, name) or self.hidden_act
            _require(activation in ACT2FN, f"{name} must be one of {sorted(ACT2FN)}, got {activation!r}")
        _require(
            self.attention_backend in known_backends(),
            f"unknown attention_backend {self.attention_backend!r}; choose from {known_backends()}. If it stands "
            'in a checkpoint: from_pretrained(..., attention_backend="auto")',
        )

    def validate_labels(self) -> None:
        """Refuse labels that are not numbered from zero, or are contradicted by `label2id`."""
        names = _label_names(self.id2label or {})
        _require(
            names.keys() == set(range(max(len(names), 1))),
            f"id2label must name the labels 0, 1, 2, ... without a gap, got {self.id2label}",
        )
        wrong = [name for name, index in (self.label2id or {}).items() if names.get(int(index)) != name]
        _require(
            not wrong or _made_up(self.label2id),
            f"label2id={self.label2id} says something else about {wrong} than id2label={self.id2label}: give both, or "
            "id2label with label2id=None",
        )

    def validate_architecture(self) -> None:
        """Refuse sizes and options that do not go together."""
        _require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size ({self.hidden_size}) must be a multiple of num_attention_heads ({self.num_attention_heads})",
        )
        _require(
            self.causal or not self.is_decoder,
            f"{type(self).__name__} has no causal form, so is_decoder=True is refused: what its tokens read was "
            "packed from the whole sequence. Choose a family whose `causal` is true in hf_effattn.list_families()",
        )
        _require(
            not self.is_encoder_decoder,
            f"is_encoder_decoder=True: {type(self).__name__} is an encoder, or a decoder with is_decoder=True",
        )
        _require(
            self.num_hidden_layers > 0 or not (self.is_decoder and self.use_cache),
            "num_hidden_layers=0 leaves a decoder nothing to cache: set use_cache=False",
        )
        _require(
            self.has_memory or self.pooling != "memory",
            f'pooling="memory" reads a memory, which {type(self).__name__} does not have',
        )
        _require(
            self.pad_token_id is None or self.pad_token_id < self.vocab_size,
            f"pad_token_id ({self.pad_token_id}) must be below vocab_size ({self.vocab_size})",
        )
        _require(
            all(width > 0 for width in self.classifier_widths),
            f"classifier_hidden_size={self.classifier_hidden_size} gives hidden layers of the widths "
            f"{self.classifier_widths}, which must be positive",
        )
        _require(
            self.cls_position or self.max_position_embeddings > 1,
            "cls_position=False leaves position 0 without a vector, so max_position_embeddings must be above 1, got "
            f"{self.max_position_embeddings}",
        )
        _require(
            self.init_scheme == "normal" or self.initializer_range == type(self).initializer_range,
            f"initializer_range={self.initializer_range} is for init_scheme='normal': init_scheme="
            f"{self.init_scheme!r} sets every range by itself, so leave it at {type(self).initializer_range}",
        )

    @property
    def cache_type(self) -> str:
        """What transformers' caches keep for a layer: ``"linear_attention"`` or ``"full_attention"``."""
        return "linear_attention" if self.constant_state else "full_attention"

    @property
    def layer_types(self) -> list[str]:
        """What transformers' caches and masks read: the kind of every layer."""
        return [self.cache_type] * self.num_hidden_layers

    @property
    def has_embedding_norm(self) -> bool:
        """`embedding_norm`, or its default for the position of the other norms."""
        return self.norm_position == "post" if self.embedding_norm is None else self.embedding_norm

    @property
    def has_last_norm(self) -> bool:
        """`last_norm`, or its default for the position of the other norms."""
        return self.norm_position == "pre" if self.last_norm is None else self.last_norm

    @property
    def classifier_widths(self) -> list[int]:
        """Widths of the hidden layers of the classification heads."""
        if isinstance(self.classifier_hidden_size, list):
            return self.classifier_hidden_size
        width = self.intermediate_size if self.classifier_hidden_size is None else self.classifier_hidden_size
        return [width] if self.pair_features is None else [width, width // 2]

    @property
    def max_input_length(self) -> int | None:
        """The longest input, or None if there is no limit."""
        return self.max_position_embeddings

    @property
    def resolved_backend(self) -> str:
        """`attention_backend`, or the backend that `attn_implementation` stands for.

        With transformers' ``attn_implementation="eager"`` a softmax model runs our ``"reference"``, unless
        `attention_backend` names another. transformers calls every other family eager, which means nothing there.
        """
        eager = self.softmax and self._attn_implementation == "eager"
        return "reference" if self.attention_backend == "auto" and eager else self.attention_backend

    @property
    def resolved_pooling(self) -> str:
        """`pooling`, or its default for an encoder or a decoder.

        Raises:
            ValueError: if a decoder is to be read at its first token, which has seen nothing but itself.
        """
        if self.is_decoder and self.pooling == "cls":
            raise ValueError(
                'pooling="cls" reads the first token, which sees only itself with is_decoder=True: '
                'use pooling="last" or "mean"'
            )
        return self.pooling or ("last" if self.is_decoder else "cls")


def auto_map(config_class: type[EffAttnConfig]) -> dict[str, str]:
    """Every Auto class that can load a checkpoint of the family, with the module and class that it finds there."""
    family = config_class.model_type
    models = {auto: f"modeling_{family}.{name}" for auto, name in config_class.class_names().items()}
    return {"AutoConfig": f"configuration_{family}.{config_class.family_name}Config", **models}


#: What describes a family, and cannot be set on one config.
_CLASS_ATTRIBUTES = frozenset(
    ["family_name", "formula", "cost", "source", "causal", "constant_state", "softmax", "has_memory", "lowest_values"]
)


def _field_names(config_class: type[EffAttnConfig]) -> frozenset[str]:
    return frozenset(field.name for field in fields(config_class))


def _label_names(id2label: dict[Any, str]) -> dict[int, str]:
    """Labels by their numbers, which a JSON file writes as strings."""
    _require(
        all(str(index).isdecimal() for index in id2label),
        f"id2label must be a dictionary from the number of a label to its name, got {id2label}",
    )
    return {int(index): name for index, name in id2label.items()}


def _made_up(label2id: dict[str, Any] | None) -> bool:
    """Whether the names are transformers' own, ``"LABEL_0"``. They stay behind when a user sets `id2label` alone."""
    return all(name.startswith("LABEL_") for name in label2id or {})


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


__all__ = ["HEADS", "EffAttnConfig", "auto_map"]
