"""What the active adapters of a layer add to its attention: prompts for all rows alike or for each row its own, images.

The base class of `ZeroInitLayer` (`layer.py`), which owns the parameters. Keys and values that the frozen layer makes
of the prompts are remembered (`adapters/prompt_cache.py`), and while one token after the other is generated held in the
form that serves single tokens best.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import OneToken, for_one_token, for_tokens, prompt_attention
from ..bank import RowAdapters, Stacked, stack_prompts
from ..layouts import Layout
from ..prompt_cache import PromptCache
from .config import ZeroInitConfig
from .image import Images, image_attention


class Contribution(nn.Module):
    """The gated half of equation 7 of LLaMA-Adapter (arXiv 2303.16199), for every adapter of one layer."""

    layout: Layout
    num_heads: int
    width: int
    device: torch.device
    prompt: nn.ParameterDict
    gate: nn.ParameterDict
    configs: dict[str, ZeroInitConfig]
    images: dict[str, Images]
    rows: RowAdapters | None
    goes_on: bool
    held: dict[Any, Any] | None
    reached: bool
    cache: PromptCache
    disable_adapters: bool
    active_adapters: list[str]

    def effective_gate(self, adapter_name: str, gate: Tensor | None = None) -> Tensor:
        """The gate as it multiplies, `activation(gate_scale * g)`: [H], or [1] where the layer has one gate."""
        config = self.configs[adapter_name]
        scaled = config.gate_scale * (self.gate[adapter_name] if gate is None else gate)
        return scaled.tanh() if config.gate_activation == "tanh" else scaled

    def keys_values(self, adapter_name: str, module: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Prompt keys [G, K, D] and values in `dtype`: gated [H, K, D] for zero-init, plain [G, K, D] for vanilla."""
        prompt_KC = self.prompt[adapter_name]
        gate = self.gate.get(adapter_name)

        def compute(prompt_KC: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
            k_GKD, v_GKD = self.layout.keys_values(module, prompt_KC.to(dtype))
            if gate is None:
                return k_GKD.to(dtype), v_GKD.to(dtype)
            v_HKD = v_GKD.repeat_interleave(self.num_heads // v_GKD.shape[0], dim=0).float()
            return k_GKD.to(dtype), (self.effective_gate(adapter_name, gate)[:, None, None] * v_HKD).to(dtype)

        frozen = self.layout.projections(module)
        return self.cache.get(adapter_name, prompt_KC, gate, dtype, frozen, compute, self.goes_on)

    def _hold(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives; in a generation made once, so that a token costs no look at what may have changed."""
        if self.held is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        if key not in self.held:
            self.held[key] = make()
        return self.held[key]

    def written_out(
        self, adapter_name: str, module: nn.Module, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """All that an adapter adds here as one set of prompts: keys and values [G, S, D], gates [H] in fp32.

        With the images of one row at hand (`images`), each is a set of prompts, and S is all of them. None where the
        adapter adds nothing here.
        """
        images = self.images.get(adapter_name)
        if images is None and adapter_name not in self.prompt:
            return None
        nothing_BNC = torch.zeros(1, 1, self.width, device=self.device)
        tokens_BNC = nothing_BNC if images is None else images.tokens().to(self.device)
        k_GSD, v_GSD = self._sets(adapter_name, module, tokens_BNC, dtype)
        return k_GSD.to(dtype), v_GSD.to(dtype), self.effective_gate(adapter_name).float().expand(self.num_heads)

    def contribution(
        self, module: nn.Module, q_BHTD: Tensor, scaling: float | None, softcap: float | None = None
    ) -> Tensor | None:
        """What the active adapters add to the attention output, [B, T, H, D]; None where none is active here."""
        if not self.reached:  # the thin seams call this alone
            self.reached = True
        if self.disable_adapters:
            return None
        scaling = q_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
        if self.rows is not None:
            return self._contribution_by_row(self.rows, module, q_BHTD, scaling, softcap)
        total = None
        for name in self.active_adapters:
            if name in self.gate:
                total = _plus(total, self._adapter_contribution(name, module, q_BHTD, scaling, softcap))
        return total

    def _adapter_contribution(
        self, name: str, module: nn.Module, q_BHTD: Tensor, scaling: float, softcap: float | None
    ) -> Tensor | None:
        images = self.images.get(name)
        early = name not in self.prompt
        if early and images is None:
            return None
        if images is not None and (early or not self._factors(module, softcap)):
            k_BGSD, v_BHSD, mask_BS = self._prompt_sets(name, module, images, q_BHTD.shape[0], q_BHTD.dtype)
            return prompt_attention(q_BHTD, k_BGSD, v_BHSD, scaling, softcap, mask_BS)
        dtype = q_BHTD.dtype
        k_GKD, v_HKD = self._hold(
            (name, dtype, q_BHTD.shape[2] == 1), lambda: for_tokens(q_BHTD, *self.keys_values(name, module, dtype))
        )
        extra_BTHD = prompt_attention(q_BHTD, k_GKD, v_HKD, scaling, softcap)
        return extra_BTHD if images is None else extra_BTHD + self._seen(name, module, images, q_BHTD, scaling)

    def _factors(self, module: nn.Module, softcap: float | None) -> bool:
        """Whether images can be added beside the prompts (`image.py`): keys are linear, scores are as they are."""
        return softcap is None and self.layout.linear(module)

    def _seen(self, name: str, module: nn.Module, images: Images, q_BHTD: Tensor, scaling: float) -> Tensor:
        """What the images add, [B, T, H, D] or [B, 1, H, D]."""
        dtype = q_BHTD.dtype

        def project() -> tuple[Tensor, Tensor]:
            tokens_BNC = images.tokens().to(self.device)
            B, N, C = tokens_BNC.shape
            # The projections' bias is in the prompts' keys and values already: what nothing gives is taken off.
            with_zero = torch.cat([tokens_BNC.reshape(B * N, C), tokens_BNC.new_zeros(1, C)]).to(dtype)
            k_GND, v_GND = self.layout.keys_values(module, with_zero)
            k_BGND, v_BGND = ((x[:, :-1] - x[:, -1:]).unflatten(1, (B, N)).transpose(0, 1) for x in (k_GND, v_GND))
            return k_BGND.to(dtype), self._gated(name, v_BGND, dtype)

        made = images.once(id(self), project)
        k_BGND, v_BHND, mask_BN = images.rows(q_BHTD.shape[0], *made, images.there.to(self.device))
        return image_attention(q_BHTD, k_BGND, v_BHND, mask_BN, scaling)

    def _gated(self, name: str, v_BGSD: Tensor, dtype: torch.dtype) -> Tensor:
        """Values with the gate folded in, one per query head."""
        v_BHSD = v_BGSD.repeat_interleave(self.num_heads // v_BGSD.shape[1], dim=1).float()
        return (self.effective_gate(name)[:, None, None] * v_BHSD).to(dtype)

    def _prompt_sets(
        self, name: str, module: nn.Module, images: Images, batch: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One set of prompts per image, written out: keys [B, G, N*K, D], gated values [B, H, N*K, D], mask [B, N*K].

        A row without images has the plain prompts as its first set. In early fusion an image token is a set by itself,
        and such a row has values of zero.
        """
        early = name not in self.prompt
        K = 1 if early else self.prompt[name].shape[0]

        def project() -> tuple[Tensor, Tensor, Tensor]:
            tokens_BNC, mask_BN = images.tokens().to(self.device), images.there.to(self.device)
            B, N, _ = tokens_BNC.shape
            sets = self._sets(name, module, tokens_BNC, dtype)
            k_BGSD, v_BGSD = (x.unflatten(1, (B, N * K)).transpose(0, 1) for x in sets)
            first_N = torch.arange(N, device=mask_BN.device) == 0
            there_BN = mask_BN | (first_N & ~mask_BN.any(-1, keepdim=True))
            mask_BS = torch.zeros(there_BN.shape, device=mask_BN.device).masked_fill(~there_BN, -torch.inf)
            v_BHSD = self._gated(name, v_BGSD, dtype)
            if early:
                v_BHSD = v_BHSD * mask_BN.any(-1)[:, None, None, None].to(dtype)
            return k_BGSD.to(dtype), v_BHSD, mask_BS.repeat_interleave(K, dim=1)

        k_BGSD, v_BHSD, mask_BS = images.rows(batch, *images.once(id(self), project))
        return k_BGSD, v_BHSD, mask_BS

    def _sets(self, name: str, module: nn.Module, tokens_BNC: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values [G, B*N*K, D] of the prompts with each image's token added."""
        width = tokens_BNC.shape[-1]
        prompt_KC = self.prompt[name] if name in self.prompt else tokens_BNC.new_zeros(1, width)
        return self.layout.keys_values(module, (prompt_KC + tokens_BNC[:, :, None]).reshape(-1, width).to(dtype))

    def _contribution_by_row(
        self, rows: RowAdapters, module: nn.Module, q_BHTD: Tensor, scaling: float, softcap: float | None
    ) -> Tensor | None:
        here = [name for name in rows.adapters if name in self.gate]
        if not here:
            return None
        batch = q_BHTD.shape[0]
        prompting = [name for name in here if name in self.prompt]
        seeing = [name for name in here if name in self.images]
        total: Tensor | None = None
        if seeing and prompting and not self._factors(module, softcap):  # sets differ from row to row: one by one
            for name in prompting:
                own_B = torch.tensor([n == name for n in rows.names(batch)], device=q_BHTD.device)
                extra_BTHD = self._adapter_contribution(name, module, q_BHTD, scaling, softcap)
                assert extra_BTHD is not None
                total = _plus(total, extra_BTHD.masked_fill(~own_B[:, None, None, None], 0.0))
        elif prompting:
            k_BGKD, v_BHKD, mask_BK = self._stacked(rows, prompting, module, q_BHTD)
            total = prompt_attention(q_BHTD, k_BGKD, v_BHKD, scaling, softcap, mask_BK)
            for name in [
                name for name in prompting if name in seeing
            ]:  # rows of other adapters have none of its images
                total = _plus(total, self._seen(name, module, self.images[name], q_BHTD, scaling))
        for name in seeing:
            if name not in self.prompt:
                total = _plus(total, self._adapter_contribution(name, module, q_BHTD, scaling, softcap))
        return total

    def _stacked(self, rows: RowAdapters, names: list[str], module: nn.Module, q_BHTD: Tensor) -> Stacked:
        """Keys, gated values and mask of these adapters, each row with its own."""
        batch, dtype = q_BHTD.shape[0], q_BHTD.dtype

        def stack() -> Stacked:
            own = {name: self.keys_values(name, module, dtype) for name in names}
            k_BGKD, v_BHKD, mask_BK = stack_prompts(rows, batch, own)
            return *for_tokens(q_BHTD, k_BGKD, v_BHKD), mask_BK

        stacked: Stacked = self._hold((batch, dtype, q_BHTD.shape[2] == 1), stack)
        return stacked

    def _only_set(self, module: nn.Module, q_BHTD: Tensor) -> Stacked | None:
        """Keys, gated values and mask, where one set of prompts for each row is all that is added here."""
        if self.disable_adapters or self.images:
            return None
        active = self.active_adapters if self.rows is None else self.rows.adapters
        names, dtype = [name for name in active if name in self.gate and name in self.prompt], q_BHTD.dtype
        if self.rows is not None and names:
            return self._stacked(self.rows, names, module, q_BHTD)
        if len(names) != 1:
            return None
        return *self._hold((names[0], dtype), lambda: self.keys_values(names[0], module, dtype)), None

    def _one_token(
        self, module: nn.Module, q_BHTD: Tensor, scaling: float | None, softcap: float | None
    ) -> OneToken | None:
        """In a generation on a CPU: how one token of so many rows gets its prompts. `attend` asks once and keeps it."""
        settled = self.held is not None and q_BHTD.shape[2] == 1 and q_BHTD.device.type == "cpu" and softcap is None
        if not settled or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        only = self._only_set(module, q_BHTD)
        if only is None:
            return None
        scaling = q_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
        return self._hold(q_BHTD.shape, lambda: for_one_token(q_BHTD, *only, scaling))  # type: ignore[no-any-return]


def _plus(total: Tensor | None, extra: Tensor | None) -> Tensor | None:
    return extra if total is None else total if extra is None else total + extra
