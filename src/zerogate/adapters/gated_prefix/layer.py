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
        """Adds an adapter with fresh parameters: prefixes N(0, std), gates 0."""
        super().update_layer(adapter_name, config, device)
        prefix_KF = torch.empty(config.prompt_length, 2 * self.kv_heads * self.head_dim, device=device)
        self.prompt[adapter_name] = nn.Parameter(nn.init.normal_(prefix_KF.float(), std=config.prompt_init_std))

    def keys_values(self, adapter_name: str, module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys [G, K, D] and values in `dtype`: gated [H, K, D] for zero-init, plain [G, K, D] for vanilla."""
        prefix_KF = self.prompt[adapter_name]
        K = prefix_KF.shape[0]
        k_GKD, v_GKD = prefix_KF.view(K, 2, self.kv_heads, self.head_dim).permute(1, 2, 0, 3)
        if adapter_name not in self.gate:
            return k_GKD.to(dtype), v_GKD.to(dtype)
        v_HKD = v_GKD.repeat_interleave(self.num_heads // self.kv_heads, dim=0)
        return k_GKD.to(dtype), (self.effective_gate(adapter_name)[:, None, None] * v_HKD).to(dtype)
