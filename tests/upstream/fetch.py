"""Get transformers' own common model tests, which its source distribution holds and its wheel does not.

    python -m tests.upstream.fetch

They are unpacked as the package ``transformers_tests`` next to the installed packages' environment, once per
version. The three modules that the source distribution leaves out are replaced by empty stand-ins, so the tests of
generation and of export that live there are not run; `tests/models/test_generation.py` is ours.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from transformers import __version__


FOLDER = Path(sys.prefix) / "share" / f"transformers-tests-{__version__}"
PACKAGE = "transformers_tests"
SHA256 = {"5.24.0": "906cb8c3cb2123575e263962586a4d21a979ce97feeb95fe6aaf66fe6ae88bf3"}

#: What the unpacked modules import from the modules that are missing.
STAND_INS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def fetch() -> Path:
    """Make sure that `FOLDER` holds the tests; returns it, ready to be put on ``sys.path``.

    Raises:
        RuntimeError: the download's checksum is not the expected one, or there is none for this version.
    """
    if FOLDER.is_dir():
        return FOLDER
    expected = SHA256.get(__version__)
    if expected is None:
        raise RuntimeError(f"no checksum is known for the source distribution of transformers {__version__}")
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as scratch:
        archive = _download(Path(scratch))
        checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
        if checksum != expected:
            raise RuntimeError(f"{archive.name} has SHA-256 {checksum}, expected {expected}")
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 has no filters; what is in the archive is known by its checksum.
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            tar.extractall(scratch)
        unpacked = Path(scratch) / f"transformers-{__version__}" / "tests"
        for name, content in STAND_INS.items():
            (unpacked / name).parent.mkdir(exist_ok=True)
            (unpacked / name).write_text(content)
            (unpacked / name).parent.joinpath("__init__.py").touch()
        (unpacked / "__init__.py").touch()
        staged = Path(scratch) / "staged"
        staged.mkdir()
        shutil.move(unpacked, staged / PACKAGE)
        staged.rename(FOLDER)
    return FOLDER


def _download(scratch: Path) -> Path:
    requirement = f"transformers=={__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    # The environment's own setuptools reads the metadata, instead of a fresh environment with one of its own.
    subprocess.run([*command, "--no-build-isolation", "--dest", str(scratch), requirement], check=True)
    return next(scratch.glob("transformers-*.tar.gz"))


if __name__ == "__main__":
    print(f"transformers' common tests: {fetch()}")
