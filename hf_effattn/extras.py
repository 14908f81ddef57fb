"""What to install where a package is missing that not every user needs."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingPackageError(ModuleNotFoundError):
    """A package is missing that an extra of hf_effattn brings.

    Args:
        package: the name that it is imported by.
        extra: the extra, of ``pyproject.toml``.
        instead: what would do without the package, if anything.
    """

    def __init__(self, package: str, extra: str, instead: str = ""):
        remedy = f'pip install "hf_effattn[{extra}]"' + (f", or {instead}" if instead else "")
        super().__init__(f"{package} is not installed: {remedy}", name=package)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Name the extra in the error if a package is missing that is imported in this block.

    Raises:
        MissingPackageError: it is; with what installs it.
    """
    try:
        yield
    except MissingPackageError:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A missing part of hf_effattn itself is a broken installation, which no extra mends.
        if package in ("", "hf_effattn"):
            raise
        raise MissingPackageError(package, extra) from error
