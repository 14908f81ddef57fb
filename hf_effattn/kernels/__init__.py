"""Compiled CPU kernels of linear attention, built by the system's compiler when they are first needed.

This package is not part of a checkpoint. Checkpoints find it where hf_effattn is installed, and run in plain torch
where it is not; see `hf_effattn.models.backend_table`.
"""

import logging
from functools import cache


logger = logging.getLogger(__name__)

#: Raised when the arguments of `linear.cpu_linear_attention` change. The code in a checkpoint asks for the number that
#: it was written for, and runs in plain torch if it finds another.
INTERFACE = 2


@cache
def build_error() -> str | None:
    """Why the kernels cannot be built or loaded here, or None. The first call builds them if they are not there."""
    from .build import BuildError
    from .library import library

    try:
        library()
    except BuildError as error:
        logger.warning("linear attention runs in plain torch, more slowly than it could: %s", error)
        return str(error)
    return None
