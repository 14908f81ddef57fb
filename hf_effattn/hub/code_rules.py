"""What the code of a checkpoint may import and use.

The rules know the usual ways by which code that nobody has read gets into a process. Whoever wants to can find others.
"""

import importlib
import itertools
from functools import cache
from types import ModuleType


#: Packages that a checkpoint's code may need, and why each is there wherever a model is loaded.
REQUIRED = {
    "torch": "the models compute with it",
    "transformers": "the models are its classes",
    "huggingface_hub": "transformers needs it; it checks the types of config fields",
    "packaging": "transformers needs it; it compares versions",
}

#: Packages that the code may ask for inside a ``try`` that catches ImportError, and what for.
OPTIONAL = {
    "triton": "compiles the GPU kernels",
    "kernels": "puts other kernels in the place of a layer's forward",
    "hf_effattn": "has the compiled CPU kernels",
}

#: Modules of the standard library that the code may use; the others can reach files, processes, the network or code.
STANDARD = {
    "__future__",
    "abc",
    "bisect",
    "collections",
    "contextlib",
    "copy",
    "dataclasses",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "heapq",
    "itertools",
    "json",
    "math",
    "numbers",
    "os",
    "re",
    "string",
    "textwrap",
    "typing",
    "warnings",
}

#: Of these packages, the code may use no more than this.
PARTS = {
    "huggingface_hub": {"dataclasses", "errors"},
    "kernels": {"use_kernel_forward_from_hub"},
    "os": {"PathLike", "environ", "fspath", "getenv", "path"},
}

#: Packages whose names with an underscore in front may lead anywhere, and stay no longer than it suits them.
PUBLIC_ALONE = {"huggingface_hub", "torch", "transformers"}

#: Parts of packages through which code comes in that no reader of the folder sees.
DYNAMIC = {
    "string.Formatter": "looks up what a text names",
    "torch.classes": "loads compiled code",
    "torch.cuda.jiterator": "makes code of text",
    "torch.distributed": "starts programs, and runs what other processes send",
    "torch.export": "loads code from an archive",
    "torch.fx": "makes code of text",
    "torch.hub": "downloads code and runs it",
    "torch.jit": "loads code from an archive",
    "torch.load": "runs what a pickle says",
    "torch.multiprocessing": "runs code from pickles",
    "torch.package": "loads code from an archive",
    "torch.serialization": "runs what a pickle says",
    "torch.storage": "runs what a pickle says",
    "torch.testing": "is for tests",
    "torch.utils.benchmark": "makes code of text",
    "torch.utils.bottleneck": "runs scripts",
    "torch.utils.collect_env": "runs commands",
    "torch.utils.cpp_extension": "compiles code and runs it",
    "torch.utils.model_zoo": "downloads pickles",
    "transformers.dynamic_module_utils": "downloads code and runs it",
    "transformers.integrations": "may download code and run it",
    "transformers.pipeline": "may download code and run it",
    "transformers.pipelines": "may download code and run it",
    "transformers.testing_utils": "runs commands",
    "typing.ForwardRef": "makes code of text",
    "typing.evaluate_forward_ref": "makes code of text",
    "typing.get_type_hints": "makes code of text",
}

#: Names with which text becomes code, or with which one comes at them, or at files and the terminal.
DYNAMIC_NAMES = {
    "__builtins__",
    "__import__",
    "__loader__",
    "__spec__",
    "breakpoint",
    "compile",
    "eval",
    "exec",
    "globals",
    "input",
    "locals",
    "open",
}

#: Attributes of whatever object by which one comes at such names, at other modules, or at code from elsewhere.
DYNAMIC_ATTRIBUTES = {
    *("__builtins__", "__closure__", "__code__", "__dict__", "__globals__", "__import__", "__loader__", "__spec__"),
    *("__getattribute__", "__self__", "__subclasses__", "__traceback__", "ag_frame", "bltns", "cr_frame"),
    *("f_back", "f_builtins", "f_globals", "f_locals", "gi_frame", "tb_frame", "torch", "transformers", "builtins"),
    *("cpp_extension", "ctypes", "dynamic_module_utils", "exec_module", "get_kernel"),
    *("import_module", "importlib", "load_inline", "load_library", "marshal", "os", "pickle", "runpy", "subprocess"),
    *("sys",),
}

#: Where it stands, even as a keyword or in a dictionary, code is let in from other places.
TRUST = "trust_remote_code"


def refusal(name: str) -> str | None:
    """Why a dotted name must not be used, whether as a module or as something in it; None if it may."""
    for module, why in DYNAMIC.items():
        if f"{name}.".startswith(f"{module}."):
            return why
    package, *inner = name.split(".")
    if inner and inner[0] not in PARTS.get(package, inner):
        return f"is not among the parts of {package} that may be used, {', '.join(sorted(PARTS[package]))}"
    if package in STANDARD - PARTS.keys() and inner and inner[0] not in public_names(package):
        return f"is not a public part of {package}"
    if package in PUBLIC_ALONE and _private_module(inner):
        return f"is not a public part of {package}"
    if reached := DYNAMIC_ATTRIBUTES.intersection(inner):
        return f"leads to {min(reached)}, and so out of what a reader of the code sees"
    return None


def _private_module(parts: list[str]) -> bool:
    """Whether dotted names come to one with an underscore by way of modules; what classes hide is their own."""
    modules = itertools.takewhile(str.islower, parts)
    return any(part.startswith("_") and not part.startswith("__") for part in modules)


@cache
def public_names(package: str) -> frozenset[str]:
    """What a module of the standard library offers; it imports others, which it does not."""
    module = importlib.import_module(package)
    found = getattr(module, "__all__", None)
    if found is None:
        found = [n for n in dir(module) if n[0] != "_" and not isinstance(getattr(module, n), ModuleType)]
    return frozenset(found) | ({"abc"} if package == "collections" else set())


def hides(text: str) -> bool:
    """Whether a text names what must not be used as an attribute, and nothing else is called like that."""
    return text in DYNAMIC_ATTRIBUTES | DYNAMIC_NAMES and (text.startswith("__") or "_frame" in text or "f_" in text)
