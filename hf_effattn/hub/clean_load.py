"""Runs in a process of its own: load a checkpoint with nothing but its own files, and write down what it gives.

Arguments: the Auto class, and where the classes come from, ``checkpoint`` or ``package``. In the working directory
lie the checkpoint, ``inputs.safetensors``, and ``text`` if there is a tokenizer to try. Started by `verify_checkpoint`
with ``python -I``, so that neither the environment nor the working directory adds a path.
"""

import os
import socket
import sys


def shut_off(source: str) -> None:
    """No network, a fresh cache for the checkpoint's code, and no hf_effattn if the checkpoint has code."""
    if source == "checkpoint":
        sys.modules["hf_effattn"] = None  # type: ignore[assignment]  # makes every import of it fail

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("a checkpoint must load without network")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = os.path.abspath("hf_home")
    os.environ["HF_MODULES_CACHE"] = os.path.abspath("modules")


def main(auto_class: str, source: str) -> None:
    """Load, call, and write ``outputs.safetensors``."""
    shut_off(source)
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    if source == "package":
        import hf_effattn  # noqa: F401  # makes its models known to the Auto classes
    folder, trust = os.path.abspath("checkpoint"), source == "checkpoint"
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=trust).eval()
    if not type(model).__module__.startswith("transformers_modules." if trust else "hf_effattn."):
        raise RuntimeError(f"{type(model)} does not come from the {source}")
    with torch.no_grad():
        logits = model(**load_file("inputs.safetensors"))[0]
    outputs = {"logits": logits.contiguous()}
    if os.path.isfile("text"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        with open("text", encoding="utf-8") as file:
            outputs["token_ids"] = torch.tensor(tokenizer(file.read())["input_ids"])
    save_file(outputs, "outputs.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
