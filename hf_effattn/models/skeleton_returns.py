"""The form of a model's output: named fields, a tuple, or in an exported program a plain dict."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch


Forward = TypeVar("Forward", bound=Callable[..., Any])


def with_output_form(forward: Forward) -> Forward:
    """Let a `forward` that computes a `transformers.utils.ModelOutput` return it in the form that its caller wants.

    - ``return_dict=True``: as it is. This is how a head calls its base model.
    - ``return_dict=False``: the tuple of the fields that are not None.
    - `return_dict` left out: as the config's `return_dict` says. But while `torch.export` records the call, the output
      is a plain dict of the fields that are not None, because a program with a class in it loads only where that class
      has been imported; and a decoder returns no cache, unless `use_cache` or a cache is passed.
    """

    @functools.wraps(forward)
    def forward_in_form(self: Any, *args: Any, return_dict: bool | None = None, **kwargs: Any) -> Any:
        named = self.config.return_dict if return_dict is None else return_dict
        exported = torch.compiler.is_exporting() and named and return_dict is None
        # The fourth argument of a decoder is its cache.
        if exported and len(args) < 4 and kwargs.get("cache") is None:
            kwargs.setdefault("use_cache", False)
        output = forward(self, *args, return_dict=True, **kwargs)
        if not named:
            return output.to_tuple()
        return dict(output) if exported else output

    return cast(Forward, forward_in_form)
