"""What the code of a checkpoint may import and use.

The rules know the usual ways by which code that nobody has read gets into a process. Whoever wants to can find others.
"""

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

#: Parts of torch and transformers through which code comes in that no reader of the folder sees.
DYNAMIC = {
    "torch.classes": "loads compiled code",
    "torch.export": "loads code from an archive",
    "torch.hub": "downloads code and runs it",
    "torch.jit": "loads code from an archive",
    "torch.load": "runs what a pickle says",
    "torch.multiprocessing": "runs code from pickles",
    "torch.package": "loads code from an archive",
    "torch.serialization": "runs what a pickle says",
    "torch.utils.cpp_extension": "compiles code and runs it",
    "torch.utils.model_zoo": "downloads pickles",
    "transformers.dynamic_module_utils": "downloads code and runs it",
    "transformers.pipeline": "may download code and run it",
}

#: Names with which text becomes code, or with which one comes at them.
DYNAMIC_NAMES = {
    "__builtins__",
    "__import__",
    "__loader__",
    "__spec__",
    "compile",
    "eval",
    "exec",
    "globals",
    "locals",
}

#: Attributes of whatever object by which one comes at such names, at other modules, or at code from elsewhere.
DYNAMIC_ATTRIBUTES = {
    *("__builtins__", "__closure__", "__code__", "__dict__", "__globals__", "__import__", "__loader__", "__spec__"),
    *("__subclasses__", "builtins", "cpp_extension", "ctypes", "dynamic_module_utils", "exec_module", "get_kernel"),
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
    if reached := DYNAMIC_ATTRIBUTES.intersection(inner):
        return f"leads to {min(reached)}, and so out of what a reader of the code sees"
    return None
