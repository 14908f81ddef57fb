"""What differs between the supported releases of transformers and its companions: here, and nowhere else.

`ENDED` says for every difference which release ended it. When the oldest supported release has reached that one, its
lines can go: `tests/test_compat.py` fails then, and says which.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError
from packaging.version import Version
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, logging

from .base_versions import check_names


logger = logging.get_logger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])

#: Difference -> package and first release without it.
ENDED = {
    "a cache travels as past_key_values": ("transformers", "5.24"),
    "recomputed layers are left a cache": ("transformers", "5.24"),
    "generate counts the positions of every cache": ("transformers", "5.24"),
    "generate makes masks for caches of states": ("transformers", "5.24"),
    "a cache has no getter of states": ("transformers", "5.21"),
    "logits are sliced by every model itself": ("transformers", "5.21"),
    "the Hub is asked by httpx": ("huggingface_hub", "2.0"),
}

_RELEASE = Version(transformers.__version__).release
_OLD_NAME = _RELEASE < (5, 24)

#: Under which name transformers hands a cache around, and looks for it in outputs.
CACHE_NAME = "past_key_values" if _OLD_NAME else "cache"

#: What huggingface_hub raises where a connection fails: an error of httpx before 2.0, and of httpx2 since.
HTTP_ERROR: type[Exception] = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


def takes_both_cache_names(method: Method) -> Method:
    """Let `method`, which takes a `cache`, be called with `past_key_values` as well.

    From 5.24 on that name is deprecated. Before, it is transformers' own, and stands in the signature that
    transformers looks at.

    Raises:
        ValueError: in a call with both.
    """

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        if "past_key_values" in kwargs:
            if "cache" in kwargs:
                raise ValueError("Both `past_key_values` and `cache` are set: they are two names of one argument")
            if not _OLD_NAME and not torch.compiler.is_compiling():
                message = "`past_key_values` is the old name of an argument. Use `cache` instead."
                warnings.warn(message, FutureWarning, stacklevel=2)
            kwargs["cache"] = kwargs.pop("past_key_values")
        return method(*args, **kwargs)

    if _OLD_NAME:
        signature = inspect.signature(method)
        parameters = list(signature.parameters.values())
        old = inspect.Parameter("past_key_values", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Cache)
        place = len(parameters) - (parameters[-1].kind is inspect.Parameter.VAR_KEYWORD)
        called.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*parameters[:place], old, *parameters[place:]]
        )
    return cast(Method, called)


class CacheOutput:
    """For outputs with a cache: it is read and set as `cache`, whatever transformers calls the field."""

    if _OLD_NAME:

        @property
        def cache(self) -> Cache | None:
            return self.past_key_values

        @cache.setter
        def cache(self, value: Cache | None) -> None:
            self.past_key_values = value


def name_cache(output: Any) -> Any:
    """`output` of transformers' `generate`, whose cache can be read as `cache`."""
    if _OLD_NAME and isinstance(output, ModelOutput):
        output.cache = output.past_key_values
    return output


class CheckpointedLayer(GradientCheckpointingLayer):
    """transformers' layer that can be recomputed in the backward pass, which must not write to a cache twice."""

    if _OLD_NAME:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            recomputed = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
            if recomputed and kwargs.get("cache") is not None:
                kwargs["cache"] = None
                logger.warning_once(f"{type(self).__name__} is recomputed in the backward pass: it uses no cache")
            return super().__call__(*args, **kwargs)


class StateGeneration:
    """What `generate` of old releases does not know about caches of states; `GenerationMixin` comes after it."""

    if _OLD_NAME:

        def _prefill(
            self,
            input_ids: torch.Tensor,
            generation_config: Any,
            model_kwargs: dict[str, Any],
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            """Hide a cache of states, by its new name, from what would count its positions."""
            counts = self.config.cache_type != "linear_attention"  # type: ignore[attr-defined]
            if not counts and CACHE_NAME in model_kwargs:
                model_kwargs = {"cache" if key == CACHE_NAME else key: value for key, value in model_kwargs.items()}
            return super()._prefill(  # type: ignore[misc]
                input_ids, generation_config, model_kwargs, *args, **kwargs
            )

        @staticmethod
        def create_masks_for_generate(attention_mask: torch.Tensor | None, **kwargs: Any) -> torch.Tensor | None:
            """Leave the mask as it is: these models read one of tokens."""
            return attention_mask


def get_conv_state(cache: Cache, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
    """`Cache.get_conv_state`: what was stored in a layer, or None before anything was, and after a reset."""
    if hasattr(cache, "get_conv_state"):
        return cache.get_conv_state(layer_idx, state_idx)
    return _stored(cache, "conv_states", layer_idx, state_idx)


def get_recurrent_state(cache: Cache, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
    """`Cache.get_recurrent_state`, see `get_conv_state`."""
    if hasattr(cache, "get_recurrent_state"):
        return cache.get_recurrent_state(layer_idx, state_idx)
    return _stored(cache, "recurrent_states", layer_idx, state_idx)


def _stored(cache: Cache, kind: str, layer_idx: int, state_idx: int) -> torch.Tensor | None:
    layer: Any = cache.layers[layer_idx]
    # A reset leaves tensors of zeros.
    return getattr(layer, kind)[state_idx] if layer.has_previous_state[state_idx] else None


if _RELEASE < (5, 21):

    def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
        """The positions of ``[batch, length, hidden]`` whose logits are wanted.

        Args:
            hidden_states: ``[batch, length, hidden]``.
            logits_to_keep: the last so many, 0 for all; positions ``[n]`` or ``[batch, n]``; or a bool mask
                ``[batch, length]``, which gives ``[chosen, hidden]``.
        """
        if isinstance(logits_to_keep, int):
            return hidden_states[:, slice(-logits_to_keep, None)]
        if logits_to_keep.dim() < 2:
            return hidden_states[:, logits_to_keep]
        if logits_to_keep.dtype == torch.bool:
            return hidden_states[logits_to_keep]
        return torch.take_along_dim(hidden_states, logits_to_keep[..., None], dim=1)

else:
    from transformers.modeling_utils import slice_logits_to_keep as slice_logits_to_keep


# What transformers promises nobody, and calls or reads of the models: were it gone, they would go wrong in silence.
check_names("transformers", transformers.PreTrainedModel, ["_is_stateful", "_can_record_outputs", "_init_weights"])
check_names("transformers", transformers.GenerationMixin, ["_prefill", "prepare_inputs_for_generation"])
