"""The versions of torch and transformers that hf_effattn is tested with, and the check that says so early."""

import torch
import transformers
from packaging.version import Version


#: Lower bound (inclusive) and upper bound (exclusive) of every package whose behaviour the models rely on.
#: 5.24 is the first transformers release in which caches travel as ``cache=`` instead of ``past_key_values=``.
SUPPORTED = {
    "torch": ("2.13", "2.14"),
    "transformers": ("5.24", "5.25"),
}


def check_version(package: str, installed: str) -> None:
    """Raise ImportError when `installed` lies outside the supported window of `package`.

    The comparison looks at the release alone, so that local builds such as ``2.13.0+cpu`` and development
    versions of a supported release pass.
    """
    lowest, beyond = SUPPORTED[package]
    release = Version(Version(installed).base_version)
    if not Version(lowest) <= release < Version(beyond):
        raise ImportError(
            f"hf_effattn supports {package}>={lowest},<{beyond}, but {package} {installed} is installed. "
            f'Install a supported release with: pip install "{package}>={lowest},<{beyond}"'
        )


check_version("torch", torch.__version__)
check_version("transformers", transformers.__version__)
