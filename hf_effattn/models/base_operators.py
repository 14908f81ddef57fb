"""What the fast paths of the operators share: dtypes of sums, denominators, masks, limits, and checks of tensors.

The oracles in `ops_reference` use none of it, so that a fault here shows in the tests.
"""

import torch


#: The widest features and values that the Triton kernels take, and the dtypes that they compute in.
TRITON_WIDTH = 256
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64 input, float32 for everything else: the dtype of states, denominators and softmax."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def denominator(total: torch.Tensor, eps: float) -> torch.Tensor:
    """``total + eps``, or 1 where that is 0: a query that sees no key has a numerator of 0, and reads zeros."""
    total = total + eps
    return total if eps > 0 else total.masked_fill(total == 0, 1.0)


def visible_keys(query: torch.Tensor, key: torch.Tensor, key_mask: torch.Tensor | None, causal: bool) -> torch.Tensor:
    """Which key every query may read, ``[B or 1, 1, N or 1, M]`` bool.

    With ``causal`` the queries are the last `N` of the `M` positions, as they are while decoding with a cache.
    """
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    visible = torch.ones(1, 1, 1, num_keys, dtype=torch.bool, device=query.device)
    if causal:
        query_position = torch.arange(num_keys - num_queries, num_keys, device=query.device)
        key_position = torch.arange(num_keys, device=query.device)
        visible = (key_position[None, :] <= query_position[:, None])[None, None]
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    return visible


def unit_stride(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its last dimension is dense in memory, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def check_devices(query: torch.Tensor, **others: torch.Tensor | None) -> None:
    """Raise ValueError unless all tensors lie on the device of `query`, and name the first that does not."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != query.device:
            remedy = "move them to one device"
            if tensor.is_meta or query.is_meta:
                remedy = "a tensor on 'meta' has no values: load it, or call the module whose hooks load it"
            raise ValueError(f"query is on {query.device} and {name} on {tensor.device}; {remedy}")


def check_key_mask(key_mask: torch.Tensor, key: torch.Tensor) -> None:
    """Raise ValueError unless `key_mask` is bool and ``[B, M]`` for keys ``[B, H, M, F]``."""
    if key_mask.dtype != torch.bool:
        raise ValueError(f"key_mask must be bool (True = real token), got {key_mask.dtype}")
    if key_mask.shape != (key.shape[0], key.shape[2]):
        raise ValueError(
            f"key_mask must be [batch, keys] = {[key.shape[0], key.shape[2]]}, got {list(key_mask.shape)}; "
            "per-query masks have no linear form"
        )
