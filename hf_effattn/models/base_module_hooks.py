"""Hooks that other libraries add to modules, to load, gather or record parameters around the forward."""

import torch
from torch import nn


def is_hooked(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling `module`, a `kind` of module, does more than its forward."""
    # Accelerate puts another forward into the instance; a wrapper of a module is of another class.
    if not isinstance(module, kind) or getattr(module.forward, "__func__", None) is not type(module).forward:
        return True
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    return any(hooks)


def execution_device(module: nn.Module) -> torch.device | None:
    """Where `module` runs: with offloading the device that accelerate loads it to; None without parameters."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.empty(0, device=device).device
    return next((parameter.device for parameter in module.parameters()), None)
