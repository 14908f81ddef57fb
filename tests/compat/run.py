"""Run the tests marked ``compat`` on other versions than those in ``.venv``, and exchange checkpoints with them.

Every set of versions gets a thin environment in ``.venv/compat``: pip installs there what differs, and the rest is
that of the environment that runs this script.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv" / "compat"

#: What the lower bounds of pyproject.toml are tested of. torch comes with gigabytes: only with ``--torch``.
BOUNDED = ("transformers", "huggingface_hub", "tokenizers", "safetensors", "accelerate", "datasets")

#: The marked tests. transformers' own common tests are of one release, and are fetched to be collected.
MARKED = ["-m", "pytest", "-m", "compat", "-q", "-p", "no:cacheprovider", "--ignore", "tests/upstream"]


def lower_bounds(names: tuple[str, ...]) -> list[str]:
    """``name==version`` with the lowest version that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = project["dependencies"] + [
        entry for extra in project["optional-dependencies"].values() for entry in extra
    ]
    bounds = {}
    for requirement in map(Requirement, stated):
        lowest = [part.version for part in requirement.specifier if part.operator == ">="]
        if requirement.name in names and lowest:
            bounds[requirement.name] = lowest[0]
    return [f"{name}=={bounds[name]}" for name in names]


def environments() -> dict[str, list[str]]:
    """Name -> what is installed beside the base environment."""
    # 5.17 is what machines with GPUs came with.
    return {"oldest": lower_bounds(BOUNDED), "middle": ["transformers==5.17.0"], "newest": ["transformers"]}


def make(name: str, packages: list[str]) -> Path:
    """The Python of a new environment."""
    place = PLACE / name
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    show = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    purelib = Path(subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip())
    # A .pth file adds folders, but does not read the .pth files in them: the checkout has to be named as well.
    base = [str(ROOT), *(path for path in sys.path if path.endswith("site-packages")), sysconfig.get_path("purelib")]
    (purelib / "base.pth").write_text("\n".join(dict.fromkeys(base)) + "\n", encoding="utf-8")
    # pip sees what the base environment has, and installs the rest here. It warns of what asks for other versions.
    install = ["install", "--quiet", "--upgrade", *packages]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *install], check=True)
    return python


def exchange(python: Path) -> None:
    """Checkpoints of the base environment are read there, and the other way round."""
    run = ["-m", "tests.compat.checkpoints"]
    for writer, reader in ((Path(sys.executable), python), (python, Path(sys.executable))):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as modules:
            subprocess.run([writer, *run, "write", folder], check=True, cwd=ROOT)
            for source in ("package", "checkpoint"):
                read = [reader, *run, "read", folder, source]
                subprocess.run(read, check=True, cwd=ROOT, env=os.environ | {"HF_MODULES_CACHE": modules})


def main() -> int:
    """Exit with 1 if anything failed in one of the environments; all of them run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*environments()], action="append", help="one of the environments")
    parser.add_argument("--torch", help="a version of torch to install beside, for example 2.11.0 (gigabytes)")
    parser.add_argument("--pins", action="store_true", help="print the lower bounds of pyproject.toml, and stop")
    given = parser.parse_args()
    if given.pins:
        print(*lower_bounds(BOUNDED))
        return 0
    failed = []
    for name in given.only or environments():
        start = time.monotonic()
        torch = [] if given.torch is None else [f"torch=={given.torch}"]
        packages = environments()[name] + torch
        print(f"==> {name}: {' '.join(packages)}", flush=True)
        try:
            python = make(name, packages)
            exchange(python)
            subprocess.run([python, *MARKED], check=True, cwd=ROOT)
        except subprocess.CalledProcessError as error:
            print(f"==> {name} failed: {error}", flush=True)
            failed.append(name)
        print(f"==> {name}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all environments passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
