"""`GatedPrefixLayer`: prompt keys and values that are learned as they are.

An adaption prompt passes through the frozen layer's projections; a prefix of P-tuning v2 does not: it *is* K keys and K
values, twice as many numbers. Everything else of zero-init attention stays: a softmax of its own, a gate from zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layouts import Layout
from ..zero_init.config import ZeroInitConfig
from ..zero_init.layer import ZeroInitLayer


class GatedPrefixLayer(ZeroInitLayer):
    """Prefixes [K, 2 G D] (keys, then values, of G key/value heads) and gates [H] (or [1]) per adapter, in fp32."""

    def __init__(self, layout: Layout, module: nn.Module) -> None:
        super().__init__(layout, module)
        _, self.kv_heads, self.head_dim, _ = layout.shape(module)

    def update_layer(
        self, adapter_name: str, config: ZeroInitConfig, device: torch.device, prompts: bool = True
    ) -> None:
        """Adds an adapter with fresh parameters: prefixes N(0, std), gates 0. Early fusion has gates alone."""
        super().update_layer(adapter_name, config, device, prompts)
        if not prompts:
            return
        prefix_KF = torch.empty(config.prompt_length, 2 * self.kv_heads * self.head_dim, device=device)
        self.prompt[adapter_name] = nn.Parameter(nn.init.normal_(prefix_KF.float(), std=config.prompt_init_std))

    def keys_values(self, adapter_name: str, module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys [G, K, D] and values in `dtype`: gated [H, K, D] for zero-init, plain [G, K, D] for vanilla."""
        k_GKD, v_GKD = self._prefix(adapter_name)
        if adapter_name not in self.gate:
            return k_GKD.to(dtype), v_GKD.to(dtype)
        v_HKD = v_GKD.repeat_interleave(self.num_heads // self.kv_heads, dim=0)
        return k_GKD.to(dtype), (self.effective_gate(adapter_name)[:, None, None] * v_HKD).to(dtype)

    def _prefix(self, name: str) -> tuple[Tensor, Tensor]:
        """Keys and values, each [G, K, D], in fp32."""
        prefix_KF = self.prompt[name]
        k_GKD, v_GKD = prefix_KF.view(prefix_KF.shape[0], 2, self.kv_heads, self.head_dim).permute(1, 2, 0, 3)
        return k_GKD, v_GKD

    def _factors(self, module: nn.Module, softcap: float | None) -> bool:
        """An image's keys and values are added to the prefix's, whatever the layer does to keys: only scores matter."""
        return softcap is None

    def _sets(self, name: str, module: nn.Module, tokens_BNC: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if name not in self.prompt:
            return super()._sets(name, module, tokens_BNC, dtype)
        B, N, C = tokens_BNC.shape
        with_zero = torch.cat([tokens_BNC.reshape(B * N, C), tokens_BNC.new_zeros(1, C)]).to(dtype)
        made = []
        for prefix_GKD, x_GSD in zip(self._prefix(name), self.layout.keys_values(module, with_zero), strict=True):
            seen_GSD = (x_GSD[:, :-1] - x_GSD[:, -1:]).float()
            made.append((seen_GSD[:, :, None] + prefix_GKD[:, None]).flatten(1, 2).to(dtype))
        return made[0], made[1]
