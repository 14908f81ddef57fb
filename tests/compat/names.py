"""What the tests expect of different releases of transformers."""

from contextlib import AbstractContextManager, nullcontext

import pytest

from hf_effattn.models.base_compat import CACHE_NAME


def warns_of_the_old_cache_name() -> AbstractContextManager:
    """`past_key_values` is deprecated where transformers has another name, and says so."""
    if CACHE_NAME == "past_key_values":
        return nullcontext()
    return pytest.warns(FutureWarning, match="Use `cache` instead")
