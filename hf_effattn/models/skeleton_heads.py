"""The task heads, written once. A family subclasses each with its own base model."""

import copy
from typing import Any, ClassVar

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .base_compat import CACHE_NAME, slice_logits_to_keep, takes_both_cache_names
from .configuration_effattn import EffAttnConfig
from .layer_norms import make_dropout, make_norm
from .skeleton_classifier import ClassificationHead, combine_pair, pool
from .skeleton_generation import CachedGenerationMixin
from .skeleton_inputs import choices_as_rows
from .skeleton_model import EffAttnModel, EffAttnPreTrainedModel
from .skeleton_outputs import (
    CausalLMOutput,
    EffAttnOutput,
    ImageClassifierOutput,
    MaskedLMOutput,
    MultipleChoiceOutput,
    QuestionAnsweringOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from .skeleton_returns import with_output_form


#: Heads read their base model's output by name, whatever form they return themselves.
NAMED: dict[str, Any] = {"return_dict": True}
#: Heads that read a whole input at once have no use for a decoder's cache.
NO_CACHE = NAMED | {"use_cache": False}


class EffAttnHead(EffAttnPreTrainedModel):
    """A model with a head on top of its family's base model.

    A module of the head must not be called like a child of the base model (``embeddings``, ``layers``, ``norm``):
    transformers 5.24 takes a checkpoint's ``norm.weight`` for the base model's and silently swaps the two.
    """

    base_class: ClassVar[type[EffAttnModel]]
    model: EffAttnModel
    #: Whether `forward` divides its loss by `num_items_in_batch`. `Trainer` reads this. Without it `Trainer` takes any
    #: `**kwargs` for a yes, and no longer divides the loss by the steps of gradient accumulation.
    accepts_loss_kwargs: bool = False

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        self.num_labels = int(config.num_labels or 0)
        self.model = self.base_class(config)
        self.main_input_name = self.model.main_input_name

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def run_base(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        **options: Any,
    ) -> EffAttnOutput:
        """The base model's output for a whole input of tokens."""
        inputs = {"position_ids": position_ids, "inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids}
        outputs: EffAttnOutput = self.model(input_ids, attention_mask, **inputs, **NO_CACHE | options)
        return outputs

    def shared_fields(
        self, loss: torch.Tensor | None, outputs: EffAttnOutput, share: float | torch.Tensor = 1.0
    ) -> dict[str, Any]:
        """The fields of every head's output: the loss with the layers' penalties, and what the base model recorded.

        `share` is the part of the penalties that this batch adds to the loss, see `batch_share`.
        """
        if loss is not None and outputs.aux_loss is None:
            outputs.aux_loss = self.model.penalty()
        if loss is not None and outputs.aux_loss is not None:
            loss = loss + share * outputs.aux_loss.to(loss.device)
        handed_on = ("hidden_states", "attentions", "aux_loss", "memory", "pack_attentions")
        return {"loss": loss, **{name: getattr(outputs, name) for name in handed_on}}


class EffAttnForMaskedLM(EffAttnHead):
    """Predicts masked tokens. Always bidirectional: it clears `is_decoder` in its config."""

    accepts_loss_kwargs = True
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.tokens.weight"}

    def __init__(self, config: EffAttnConfig):
        super().__init__(_for_tokens(config, is_decoder=False))
        self.head = MaskedLMHead(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @with_output_form
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits ``[batch, length, vocab]``; `labels` ``[batch, length]`` with -100 where nothing is predicted."""
        outputs = self.run_base(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        logits = self.lm_head(self.head(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config.vocab_size, num_items_in_batch)
        return MaskedLMOutput(
            **self.shared_fields(loss, outputs, batch_share(labels, num_items_in_batch)), logits=logits
        )


class EffAttnForCausalLM(EffAttnHead, CachedGenerationMixin):
    """Predicts the next token, and generates. Always causal: it sets `is_decoder` in its config."""

    accepts_loss_kwargs = True
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.tokens.weight"}

    def __init__(self, config: EffAttnConfig):
        super().__init__(_for_tokens(config, is_decoder=True))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Enter the class into transformers' table of causal models.

        `Trainer` looks there by name whose labels its label smoothing has to shift. No model type is the key, since a
        model of the table's keys is looked for in transformers itself.
        """
        super().__init_subclass__(**kwargs)
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[cls.__name__] = cls.__name__

    @takes_both_cache_names
    @with_output_form
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutput:
        """Logits ``[batch, length, vocab]``; `labels` are the inputs (shifted inside), -100 to leave one out.

        Trainers that split sequences pass the labels shifted already, as `shift_labels`. With labels there is no cache
        unless `use_cache` asks for it: nothing goes on from an evaluation, and DataParallel cannot gather a cache.
        """
        # Not an argument by name: `Trainer` takes such a one for a column of labels, and gives no evaluation loss.
        shift_labels = kwargs.pop("shift_labels", None)
        targets = shift_labels if labels is None else labels[..., 1:]
        if use_cache is None and cache is None and targets is not None:
            use_cache = False
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            token_type_ids=token_type_ids,
            **NAMED | kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if targets is not None:
            loss = self.loss_function(
                logits, labels, self.config.vocab_size, num_items_in_batch, shift_labels=shift_labels
            )
        return CausalLMOutput(
            **self.shared_fields(loss, outputs, batch_share(targets, num_items_in_batch)),
            logits=logits,
            **{CACHE_NAME: outputs.cache},
        )


class EffAttnForSequenceClassification(EffAttnHead):
    """Classifies a sequence, or with `config.pair_features` a pair of sequences that are encoded one by one."""

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        self.pooling = config.resolved_pooling
        self.classifier = ClassificationHead(config, self.num_labels)
        self.post_init()

    @with_output_form
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pair_input_ids: torch.Tensor | None = None,
        pair_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits ``[batch, num_labels]``; `pair_input_ids` ``[batch, other length]`` is the second of a pair.

        Raises:
            ValueError: a second sequence without `config.pair_features`, or none with it.
        """
        if (pair_input_ids is None) != (self.config.pair_features is None):
            given = "was given" if pair_input_ids is not None else "is missing"
            raise ValueError(f"pair_features={self.config.pair_features!r}, but pair_input_ids {given}")
        outputs = self.run_base(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        pooled = pool(outputs.last_hidden_state, attention_mask, self.pooling, outputs.memory)
        if pair_input_ids is not None:
            with self.model.same_training_pass():
                pair = self.model(pair_input_ids, pair_attention_mask, **NO_CACHE)
            pair = pool(pair.last_hidden_state, pair_attention_mask, self.pooling, pair.memory)
            pooled = combine_pair(pooled, pair, self.config.pair_features)
        logits = self.classifier(pooled)
        loss, share = None, row_share(labels, num_items_in_batch)
        if labels is not None:
            loss = share * self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(**self.shared_fields(loss, outputs, share), logits=logits)


class EffAttnForTokenClassification(EffAttnHead):
    """Classifies every token."""

    accepts_loss_kwargs = True

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        self.dropout = make_dropout(config, "classifier_dropout")
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @with_output_form
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Logits ``[batch, length, num_labels]``; `labels` ``[batch, length]`` with -100 to leave one out."""
        outputs = self.run_base(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, num_items_in_batch=num_items_in_batch)
        return TokenClassifierOutput(
            **self.shared_fields(loss, outputs, batch_share(labels, num_items_in_batch)), logits=logits
        )


class EffAttnForQuestionAnswering(EffAttnHead):
    """Finds the span that answers a question: one logit for its first token and one for its last."""

    def __init__(self, config: EffAttnConfig):
        super().__init__(config)
        self.dropout = make_dropout(config, "classifier_dropout")
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @with_output_form
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringOutput:
        """Start and end logits ``[batch, length]``; the positions ``[batch]`` are their targets."""
        outputs = self.run_base(input_ids, attention_mask, position_ids, inputs_embeds, token_type_ids, **kwargs)
        logits = self.qa_outputs(self.dropout(outputs.last_hidden_state))
        start_logits, end_logits = logits[..., 0].contiguous(), logits[..., 1].contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(
                start_logits, end_logits, start_positions, end_positions, num_items_in_batch=num_items_in_batch
            )
        share = row_share(start_positions, num_items_in_batch)
        return QuestionAnsweringOutput(
            **self.shared_fields(loss, outputs, share), start_logits=start_logits, end_logits=end_logits
        )


class EffAttnForMultipleChoice(EffAttnHead):
    """Chooses between texts: each is encoded by itself, and one classifier gives each a logit."""

    def __init__(self, config: EffAttnConfig):
        if config.pair_features is not None:
            raise ValueError(
                f"pair_features={config.pair_features!r} is for classifiers of pairs, and every choice is one "
                "sequence: set pair_features=None"
            )
        super().__init__(config)
        self.pooling = config.resolved_pooling
        self.classifier = ClassificationHead(config, 1)
        self.post_init()

    @with_output_form
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceOutput:
        """Logits ``[batch, choices]`` of inputs ``[batch, choices, length]``; `labels` ``[batch]`` are the right ones.

        Raises:
            ValueError: inputs without a dimension of choices, or not all of the same.
        """
        choices, rows = choices_as_rows(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            token_type_ids=token_type_ids,
        )
        outputs = self.run_base(**rows, **kwargs)
        pooled = pool(outputs.last_hidden_state, rows["attention_mask"], self.pooling, outputs.memory)
        logits = self.classifier(pooled).view(-1, choices)
        loss, share = None, row_share(labels, num_items_in_batch)
        if labels is not None:
            loss = share * nn.functional.cross_entropy(logits, labels.to(logits.device))
        return MultipleChoiceOutput(**self.shared_fields(loss, outputs, share), logits=logits)


class EffAttnForImageClassification(EffAttnHead):
    """Classifies an image that is read pixel by pixel, in raster order; needs `config.num_channels`."""

    main_input_name = "pixel_values"

    def __init__(self, config: EffAttnConfig):
        if config.num_channels is None:
            raise ValueError("image classification reads pixels: set num_channels (1 for grey, 3 for colour)")
        super().__init__(config)
        self.pooling = config.resolved_pooling
        self.classifier = ClassificationHead(config, self.num_labels)
        self.post_init()

    @with_output_form
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Logits ``[batch, num_labels]`` of images ``[batch, num_channels, height, width]``."""
        outputs = self.model(pixel_values=pixel_values, attention_mask=attention_mask, **NO_CACHE | kwargs)
        logits = self.classifier(pool(outputs.last_hidden_state, attention_mask, self.pooling, outputs.memory))
        loss, share = None, row_share(labels, num_items_in_batch)
        if labels is not None:
            loss = share * self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return ImageClassifierOutput(**self.shared_fields(loss, outputs, share), logits=logits)


class MaskedLMHead(nn.Module):
    """The layer between the encoder and the vocabulary, as in BERT: linear, activation, norm."""

    def __init__(self, config: EffAttnConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.norm = make_norm(config)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.activation(self.dense(hidden_states)))
        return normed


def batch_share(targets: torch.Tensor | None, num_items_in_batch: torch.Tensor | None) -> float | torch.Tensor:
    """The part of an optimisation step that this batch is: its targets over those of all accumulated batches.

    `Trainer` sums the losses of accumulated batches, each divided by `num_items_in_batch`. With this factor the
    penalties come to their full value once per step, as they do without accumulation.
    """
    if targets is None or num_items_in_batch is None:
        return 1.0
    return targets.ne(-100).sum() / num_items_in_batch


def row_share(labels: torch.Tensor | None, num_items_in_batch: torch.Tensor | None) -> float | torch.Tensor:
    """`batch_share` for one label per row: a class (-100 for none), a number, or a yes or no for every class."""
    if labels is None or not labels.is_floating_point():
        return batch_share(labels, num_items_in_batch)
    return 1.0 if num_items_in_batch is None else labels.shape[0] / num_items_in_batch


def _for_tokens(config: EffAttnConfig, is_decoder: bool) -> EffAttnConfig:
    """The config with the direction that a language modelling head needs; the caller's config stays as it is."""
    if config.num_channels is not None:
        raise ValueError(f"a language model reads tokens, but num_channels={config.num_channels} asks for pixels")
    if config.is_decoder == is_decoder:
        return config
    config = copy.deepcopy(config)
    config.is_decoder = is_decoder
    return config
