"""Runs in a process of its own: load a checkpoint with nothing but its own files, and write down what it gives.

Arguments: the checkpoint folder, the Auto class, and a scratch folder with ``inputs.safetensors``, and ``text`` if
there is a tokenizer to try. Started by
`verify_checkpoint` with ``python -I``, so that neither the environment nor the working directory adds a path.
"""

import os
import socket
import sys


def shut_off(scratch: str) -> None:
    """No hf_effattn, no network, and a fresh cache for the checkpoint's code."""
    sys.modules["hf_effattn"] = None  # type: ignore[assignment]  # makes every import of it fail

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("a checkpoint must load without network")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = os.path.join(scratch, "hf_home")
    os.environ["HF_MODULES_CACHE"] = os.path.join(scratch, "modules")


def main(folder: str, auto_class: str, scratch: str) -> None:
    """Load, call, and write ``outputs.safetensors``."""
    shut_off(scratch)
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True).eval()
    if not type(model).__module__.startswith("transformers_modules."):
        raise RuntimeError(f"{type(model)} does not come from the checkpoint")
    with torch.no_grad():
        logits = model(**load_file(os.path.join(scratch, "inputs.safetensors")))[0]
    outputs = {"logits": logits.contiguous()}
    if os.path.isfile(text := os.path.join(scratch, "text")):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        with open(text, encoding="utf-8") as file:
            outputs["token_ids"] = torch.tensor(tokenizer(file.read())["input_ids"])
    save_file(outputs, os.path.join(scratch, "outputs.safetensors"))


if __name__ == "__main__":
    main(*sys.argv[1:])
