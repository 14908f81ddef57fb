"""Checkpoints that one set of versions writes and another reads, with the package and by their own code.

``python -m tests.compat.checkpoints write FOLDER`` saves tiny models of every family with what they give;
``read FOLDER package`` and ``read FOLDER checkpoint`` load them with the classes of the package, or of the checkpoint
alone.
"""

import argparse
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


#: What the logits may differ by, as a share of the largest: a checkpoint's own code has no compiled kernels.
TOLERANCE = 1e-5


def outputs_of(model, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits of a model; for a decoder also those behind a cache, and what it generates."""
    model.eval()
    with torch.no_grad():
        found = {"logits": model(ids).logits}
        if not model.config.is_decoder:
            return found
        first = model(ids[:, :5], use_cache=True)
        found["behind_cache"] = model(ids[:, 5:], cache=first.cache, use_cache=True).logits
        options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
        found["greedy"] = model.generate(ids, **options)
        found["beams"] = model.generate(ids, num_beams=3, **options)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def write(folder: Path) -> None:
    """Save a model of every family, of each of its directions, and the outputs beside it."""
    from tests.models.variants import VARIANTS, random_ids, tiny_model

    for number, (family, options) in enumerate(VARIANTS):
        auto_class = "AutoModelForCausalLM" if family.causal else "AutoModelForMaskedLM"
        model = tiny_model(family, auto_class, torch.float32, tie_word_embeddings=False, **options)
        place = folder / f"{number:02}-{auto_class}"
        model.save_pretrained(place)
        ids = random_ids(2, 11)
        save_file({"ids": ids} | outputs_of(model, ids), place / "expected")
    print(f"wrote {len(VARIANTS)} checkpoints with transformers {transformers.__version__}, torch {torch.__version__}")


def read(folder: Path, source: str) -> None:
    """Load every checkpoint and compare.

    Raises:
        ValueError: a class from elsewhere, or outputs that differ.
    """
    if source == "package":
        import hf_effattn  # noqa: F401  # makes its models known to the Auto classes
    else:
        sys.modules["hf_effattn"] = None  # type: ignore[assignment]  # makes every import of it fail
    places = sorted(path.parent for path in folder.glob("*/config.json"))
    largest = 0.0
    for place in places:
        auto_class = getattr(transformers, place.name.split("-")[1])
        model = auto_class.from_pretrained(place, trust_remote_code=source == "checkpoint")
        if type(model).__module__.startswith("transformers_modules.") != (source == "checkpoint"):
            raise ValueError(f"{type(model)} does not come from the {source}")
        expected = load_file(place / "expected")
        for name, found in outputs_of(model, expected.pop("ids")).items():
            wanted = expected.pop(name)
            difference = float((found - wanted).abs().max() / wanted.abs().max())
            if difference > (0 if name in ("greedy", "beams") else TOLERANCE):
                raise ValueError(f"{place.name}: {name} differs by {difference}")
            largest = max(largest, difference)
        if expected:
            raise ValueError(f"{place.name}: {sorted(expected)} are missing")
    if not places:
        raise ValueError(f"{folder} holds no checkpoints")
    print(f"{len(places)} checkpoints, read by the {source}: largest difference {largest:.1e}")


def main() -> None:
    """Write or read."""
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write").add_argument("folder", type=Path)
    reading = commands.add_parser("read")
    reading.add_argument("folder", type=Path)
    reading.add_argument("source", choices=["package", "checkpoint"])
    given = parser.parse_args()
    if given.command == "write":
        write(given.folder)
    else:
        read(given.folder, given.source)


if __name__ == "__main__":
    main()
