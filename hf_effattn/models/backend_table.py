"""One table from operator to backends: which backend runs, and the reason against every other.

A backend is registered once, next to its code. ``"auto"`` takes the first registered backend that serves the
device and dtype at hand; a backend that is asked for by name and cannot serve raises instead of being replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .base_transforms import reason_against_opaque_operators


#: How messages name the types of devices.
_DEVICE_NAMES = {"cpu": "the CPU", "cuda": "CUDA and ROCm devices"}


@dataclass(frozen=True)
class Backend:
    """One implementation of an operator.

    Attributes:
        name: what users pass as ``attention_backend``.
        function: the implementation; every backend of an operator has the same signature.
        step: a faster implementation for a single token, with the same signature.
        automatic: whether ``"auto"`` may choose it. The quadratic reference is for reading and checking only.
        device_types: the types of devices that it runs on; None for all.
        dtypes: the dtypes of queries that it takes; None for all.
        max_width: the widest features and values that it takes; None for any.
        missing: returns what is missing on this machine to run it, or None.
        opaque: whether its operators are our own, so that torch cannot see inside. Such a backend cannot serve torch's
            function transforms or forward-mode derivatives, and ``"auto"`` keeps it out of exported graphs, which
            would need this package wherever they run.
        fuses_maps: whether it runs the `MapLayer` of a call itself; for the others it has been applied.
    """

    name: str
    function: Callable[..., Any]
    step: Callable[..., Any] | None = None
    automatic: bool = True
    device_types: tuple[str, ...] | None = None
    dtypes: tuple[torch.dtype, ...] | None = None
    max_width: int | None = None
    missing: Callable[[], str | None] | None = None
    opaque: bool = False
    fuses_maps: bool = False

    def reason_against(self, device: torch.device, dtype: torch.dtype, width: int) -> str | None:
        """Why it cannot serve features and values of `width` on a device in a dtype, or None."""
        if self.device_types is not None and device.type not in self.device_types:
            return f"it runs on {_listed([_DEVICE_NAMES.get(name, name) for name in self.device_types])}"
        if self.dtypes is not None and dtype not in self.dtypes:
            return f"its kernels take {_listed([str(one).removeprefix('torch.') for one in self.dtypes])}, not {dtype}"
        if self.max_width is not None and width > self.max_width:
            return f"it takes features and values of width up to {self.max_width}, not {width}"
        if self.opaque and (reason := reason_against_opaque_operators()) is not None:
            return reason
        return None if self.missing is None else self.missing()


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


#: The names of the library's own backends. Configs are checked against them before any operator has been imported.
LIBRARY_BACKENDS = ("triton", "cpu", "torch", "reference")

_BACKENDS: dict[str, dict[str, Backend]] = {}


def register_backend(operator: str, backend: Backend) -> None:
    """Add `backend` to `operator`, after those that ``"auto"`` already prefers.

    Raises:
        ValueError: if the operator already has a backend of that name.
    """
    registered = _BACKENDS.setdefault(operator, {})
    if backend.name in registered:
        raise ValueError(f"operator {operator!r} already has a backend named {backend.name!r}")
    registered[backend.name] = backend


def resolve_backend(
    operator: str, requested: str, device: torch.device, dtype: torch.dtype, width: int = 0
) -> Backend:
    """The backend that runs `operator` on `device` in `dtype`, on features and values of up to `width`.

    Raises:
        ValueError: if `requested` is neither ``"auto"`` nor a backend of the operator.
        RuntimeError: if the backend asked for by name, or every backend, cannot serve; the message says why.
    """
    if requested == "auto":
        return _first_that_serves(operator, device, dtype, width)
    check_backend_name(operator, requested)
    backend = _BACKENDS[operator][requested]
    reason = backend.reason_against(device, dtype, width)
    if reason is not None:
        raise RuntimeError(
            f"attention_backend {requested!r} cannot run {operator!r} in {dtype} on {device}: {reason}. "
            f'Use attention_backend="auto" to let the library choose.'
        )
    return backend


def _first_that_serves(operator: str, device: torch.device, dtype: torch.dtype, width: int) -> Backend:
    reasons = []
    for backend in _BACKENDS[operator].values():
        if not backend.automatic:
            reason: str | None = "only runs when asked for by name"
        elif backend.opaque and torch.compiler.is_exporting():
            reason = "an exported graph with it would only run beside hf_effattn"
        else:
            reason = backend.reason_against(device, dtype, width)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    raise RuntimeError(f"no backend of {operator!r} serves {dtype} on {device}: " + "; ".join(reasons))


def check_backend_name(operator: str, requested: str) -> None:
    """Raise ValueError if `requested` is neither ``"auto"`` nor a backend of the operator."""
    if requested not in backend_names(operator):
        raise ValueError(
            f"unknown attention_backend {requested!r} for {operator!r}; choose from {backend_names(operator)}"
        )


def backend_names(operator: str) -> list[str]:
    """``"auto"`` and the registered backends of `operator`, in the order of preference."""
    return ["auto", *_BACKENDS[operator]]


def known_backends() -> list[str]:
    """``"auto"``, the library's backends, and those that were registered beside them for any operator."""
    registered = (name for table in _BACKENDS.values() for name in table)
    return ["auto", *dict.fromkeys([*LIBRARY_BACKENDS, *registered])]


def backends(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, width: int = 0
) -> dict[str, dict[str, str]]:
    """For every operator and backend: ``"chosen"``, ``"available"``, or the reason why it cannot serve."""
    device = torch.device(device)
    table: dict[str, dict[str, str]] = {}
    for operator, registered in _BACKENDS.items():
        chosen = resolve_backend(operator, "auto", device, dtype, width).name
        table[operator] = {
            name: "chosen" if name == chosen else backend.reason_against(device, dtype, width) or "available"
            for name, backend in registered.items()
        }
    return table
