"""The options of one call of linear attention, as one value that every backend receives unchanged."""

from dataclasses import dataclass

import torch

from .base_map_layer import MapLayer
from .base_operators import check_devices, check_key_mask


@dataclass(frozen=True)
class LinearAttentionCall:
    """The options of `ops_linear.linear_attention`, where each is described.

    A layer makes it once per forward call. The compiled kernels, which cannot import this file, read the same
    attributes.
    """

    key_mask: torch.Tensor | None = None
    causal: bool = False
    normalize: bool = True
    scale: float | torch.Tensor | None = None
    eps: float = 1e-6
    initial_state: torch.Tensor | None = None
    dropout_p: float = 0.0
    feature_map: MapLayer | None = None

    def num_features(self, query: torch.Tensor) -> int:
        """The width `F` of the mapped queries."""
        width = query.shape[-1]
        return width if self.feature_map is None else self.feature_map.num_features(width)

    def scale_parts(self, query: torch.Tensor) -> tuple[float, torch.Tensor | None, torch.Tensor | None]:
        """`scale` as a kernel takes it: a number, a factor of each token, and a factor for the finished output.

        The kernel applies the number and the float32 factors ``[B, H, N]``. A scale that needs a gradient, or that
        lies on another device, is the third: the caller multiplies the output by it.
        """
        scale = self.scale
        if scale is None:
            return 1.0, None, None
        if not isinstance(scale, torch.Tensor):
            return float(scale), None, None
        if scale.device != query.device or (scale.requires_grad and torch.is_grad_enabled()):
            return 1.0, None, scale
        return 1.0, scale.float().expand(*query.shape[:3], 1).squeeze(-1), None

    def check(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Raise ValueError unless the options fit each other and the tensors."""
        if query.dim() != 4 or query.shape != key.shape or value.dim() != 4 or value.shape[:3] != key.shape[:3]:
            raise ValueError(
                "linear attention takes query and key [batch, heads, length, features] and value [batch, heads, "
                f"length, dim], got {list(query.shape)}, {list(key.shape)} and {list(value.shape)}"
            )
        if query.shape[2] == 0:
            raise ValueError("linear attention got a sequence of length 0")
        check_devices(query, key=key, value=value, key_mask=self.key_mask, initial_state=self.initial_state)
        # As everywhere in torch, a scale of one number may lie on another device, but not on meta, without a value.
        if isinstance(self.scale, torch.Tensor) and (self.scale.dim() > 0 or self.scale.is_meta):
            check_devices(query, scale=self.scale)
        if self.feature_map is not None:
            self._check_map(self.feature_map, query)
        if self.key_mask is not None:
            check_key_mask(self.key_mask, key)
        if self.initial_state is not None:
            self._check_state(self.initial_state, query, value)
        if self.dropout_p > 0 and (self.causal or self.normalize):
            raise ValueError(
                f"dropout_p={self.dropout_p} acts on the summed state, which is only defined for causal=False and "
                f"normalize=False (here causal={self.causal}, normalize={self.normalize}). Train with dropout_p=0."
            )

    def _check_map(self, feature_map: MapLayer, query: torch.Tensor) -> None:
        check_devices(query, **feature_map.tensors())
        if feature_map.weight is None:
            return
        heads, dim, _ = feature_map.weight.shape
        if (heads, dim) != (query.shape[1], query.shape[3]):
            raise ValueError(
                f"a feature map for {heads} heads of width {dim} does not fit queries {list(query.shape)} "
                "[batch, heads, length, width]"
            )

    def _check_state(self, state: torch.Tensor, query: torch.Tensor, value: torch.Tensor) -> None:
        columns = value.shape[-1] + 1 if self.normalize else value.shape[-1]
        expected = (query.shape[0], query.shape[1], self.num_features(query), columns)
        if state.shape != expected:
            raise ValueError(
                f"the state of linear attention with normalize={self.normalize} has shape {list(expected)} here, "
                f"got {list(state.shape)}"
            )
