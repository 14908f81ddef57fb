"""A program that loads a checkpoint with nothing but its own files, and writes the outputs of the model.

`verify_checkpoint` starts it in a process of its own with ``python -I``, so that neither the environment nor the
working directory adds a path for imports. Its arguments are the Auto class, and the source of the classes,
``checkpoint`` or ``package``. The working directory holds the folder ``checkpoint``, ``inputs.safetensors``, and
``text`` if there is a tokenizer.
"""

import os
import socket
import sys


def isolate_imports_and_network(source: str) -> None:
    """Refuse the network, use a new cache for code, and hide hf_effattn if the checkpoint has its own code."""
    if source == "checkpoint":
        sys.modules["hf_effattn"] = None  # type: ignore[assignment]  # makes every import of it fail

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("a checkpoint must load without network")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HOME"] = os.path.abspath("hf_home")
    os.environ["HF_MODULES_CACHE"] = os.path.abspath("modules")


def main(auto_class: str, source: str) -> None:
    """Load the checkpoint, call the model, and write ``outputs.safetensors``."""
    isolate_imports_and_network(source)
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
