"""The seam: where every adapter of attention meets every transformers model.

A transformers attention module asks `AttentionInterface.get_interface` for its attention function and calls it as
`fn(module, query, key, value, mask, ...)`: after RoPE and QK-norm, before the output projection. `install_seam()`
wraps what that look-up returns. The wrapped function is the original one, unless the calling module carries a child
named `zero_init`; then that child decides how the prompts join. No model class is subclassed, no projection
is computed twice, and since names in the look-up table stay as they are, every name check in transformers (continuous
batching, flash-attention gates) stays true. Because `eager` comes to the same look-up as its default, it is covered
with the model file's own function.

The paper's mathematics is here too, once: `prompt_attention` is the gated half of equation 7 of LLaMA-Adapter
(arXiv 2303.16199), `join_prompts` the "random-init attention" its Table 4 compares with.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

CHILD = "zero_init"
"""Name of the child module that an adapted attention module carries."""

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]

OneToken = Callable[[Tensor, Tensor], Tensor]
"""(attention output [B, 1, H, D], queries [B, H, 1, D]) -> the output with the prompts' part."""

_SEAMS: dict[AttentionFunction, AttentionFunction] = {}
_ORIGINAL_GET_INTERFACE = AttentionInterface.get_interface


def prompt_attention(
    q_BHTD: Tensor,
    k_GKD: Tensor,
    v_HKD: Tensor,
    scaling: float,
    softcap: float | None = None,
    mask_BK: Tensor | None = None,
) -> Tensor:
    """The gated prompt half of zero-init attention (equation 7): `softmax(q k_prompt^T) (gate * v_prompt)`.

    The softmax runs over the K prompt positions alone and sums in fp32; each of them is visible to every query. The
    gate is already folded into the values, so nothing of the size of the activations is multiplied by it.

    Args:
        q_BHTD: Queries of H heads, as the model made them (rotated, normed).
        k_GKD: Prompt keys of G key/value heads, [G, K, D], or one set per row, [B, G, K, D]. H is a multiple of G.
        v_HKD: Gated prompt values, one per *query* head, [H, K, D] or [B, H, K, D].
        scaling: What the attention multiplies its scores by.
        softcap: Gemma 2's bound on scores, where the model has one.
        mask_BK: Additive mask for rows whose adapter has fewer than K prompts.

    Returns:
        [B, T, H, D], to be added to the attention output (`add`) before the output projection. In fp32 where keys and
        values are given so (`for_tokens`), else in the queries' dtype.
    """
    q_BHTD = q_BHTD.to(v_HKD.dtype)
    H, G = q_BHTD.shape[1], k_GKD.shape[-3]
    if softcap is not None or not _fused_is_faster(q_BHTD, v_HKD):
        return _written_out(q_BHTD, k_GKD, v_HKD, scaling, softcap, mask_BK)
    dtype = q_BHTD.dtype
    if _in_fp32(q_BHTD):
        return prompt_attention(q_BHTD, k_GKD.float(), v_HKD.float(), scaling, softcap, mask_BK).to(dtype)
    k_HKD = k_GKD if G == H else k_GKD.repeat_interleave(H // G, dim=-3)
    mask = None if mask_BK is None else mask_BK[:, None, None, :].to(v_HKD.dtype)
    if k_HKD.dim() == 3:
        k_HKD, v_HKD = (x.expand(q_BHTD.shape[0], -1, -1, -1) for x in (k_HKD, v_HKD))
    return F.scaled_dot_product_attention(q_BHTD, k_HKD, v_HKD, mask, scale=scaling).transpose(1, 2)


def for_tokens(q_BHTD: Tensor, k_GKD: Tensor, v_HKD: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt keys and gated values in the form that `prompt_attention` is fastest with, for many queries like these.

    Worth keeping while one token after the other is made: what this converts is converted once.
    """
    if not (_in_fp32(q_BHTD) and _fused_is_faster(q_BHTD, v_HKD)):
        return k_GKD, v_HKD
    return k_GKD.repeat_interleave(v_HKD.shape[-3] // k_GKD.shape[-3], dim=-3).float(), v_HKD.float()


def for_one_token(q_BH1D: Tensor, k_GKD: Tensor, v_HKD: Tensor, mask_BK: Tensor | None, scaling: float) -> OneToken:
    """`prompt_attention`, added in place, with all but the queries settled: for tokens that follow one like this.

    At one token per row the operations take a few microseconds, and looking at what is the case costs as much.
    """
    if mask_BK is None and _rows_are_like_queries(q_BH1D, k_GKD):
        k_1HKD, v_1HKD = k_GKD.repeat_interleave(v_HKD.shape[-3] // k_GKD.shape[-3], dim=-3)[None], v_HKD[None]

        def add_to_all(out_B1HD: Tensor, q_BH1D: Tensor) -> Tensor:
            q_1HBD = q_BH1D.transpose(0, 2).to(v_1HKD.dtype)
            extra_1HBD = F.scaled_dot_product_attention(q_1HBD, k_1HKD, v_1HKD, scale=scaling)
            return out_B1HD.add_(extra_1HBD.permute(2, 0, 1, 3))

        return add_to_all
    k_HKD, v_HKD = for_tokens(q_BH1D, k_GKD, v_HKD)
    if k_HKD.shape[-3] != v_HKD.shape[-3]:
        k_HKD = k_HKD.repeat_interleave(v_HKD.shape[-3] // k_HKD.shape[-3], dim=-3)
    k_BHKD, v_BHKD = (x.expand(q_BH1D.shape[0], -1, -1, -1) for x in (k_HKD, v_HKD))
    mask = None if mask_BK is None else mask_BK[:, None, None, :].to(v_HKD.dtype)
    dtype = v_HKD.dtype

    def add_to(out_B1HD: Tensor, q_BH1D: Tensor) -> Tensor:
        extra = F.scaled_dot_product_attention(q_BH1D.to(dtype), k_BHKD, v_BHKD, mask, scale=scaling)
        return out_B1HD.add_(extra.transpose(1, 2))

    return add_to


def add(out_BTHD: Tensor, extra_BTHD: Tensor) -> Tensor:
    """The attention output with the prompts' part. Without gradients nothing else needs what `out_BTHD` holds."""
    if torch.is_grad_enabled():
        return out_BTHD + extra_BTHD.to(out_BTHD.dtype)
    return out_BTHD.add_(extra_BTHD)


def _fused_is_faster(q_BHTD: Tensor, v_HKD: Tensor) -> bool:
    """Whether torch's fused attention beats the same written out, over so few keys (benchmarks/prompt_attention.py).

    On a CPU it does for single tokens, except that its backward in half precision takes ten times as long.
    """
    trained = torch.is_grad_enabled() and (q_BHTD.requires_grad or v_HKD.requires_grad)
    if q_BHTD.device.type != "cpu":
        return not trained
    return q_BHTD.shape[2] == 1 and (not trained or q_BHTD.dtype in (torch.float32, torch.float64))


def _rows_are_like_queries(q_BH1D: Tensor, k_GKD: Tensor) -> bool:
    """Whether a token of each row is best seen as the queries of one row, since all of them meet the same prompts.

    On a CPU, with 8 heads of 64, 16 rows in bf16 then take half the time; in fp32 the two are about even.
    """
    return k_GKD.dim() == 3 and q_BH1D.shape[0] >= 8


def _in_fp32(q_BHTD: Tensor) -> bool:
    """One token of each row in half precision, on a CPU: so small products take twice as long there as in fp32."""
    return q_BHTD.shape[2] == 1 and q_BHTD.device.type == "cpu" and q_BHTD.dtype.itemsize == 2


def _written_out(
    q_BHTD: Tensor, k_GKD: Tensor, v_HKD: Tensor, scaling: float, softcap: float | None, mask_BK: Tensor | None
) -> Tensor:
    B, H, T, D = q_BHTD.shape
    G, K = k_GKD.shape[-3:-1]
    # Query heads of one group are neighbours, so a group's queries make one tall matrix against its K keys.
    q_BGMD = q_BHTD.reshape(B, G, (H // G) * T, D)
    # Scaled as keys, of which there are few. A softmax of half-precision scores computes in fp32 by itself.
    scores_BGMK = q_BGMD @ (k_GKD * scaling).transpose(-1, -2)
    if softcap is not None:
        scores_BGMK = softcap * torch.tanh(scores_BGMK.float() / softcap)
    if mask_BK is not None:
        scores_BGMK = scores_BGMK + mask_BK[:, None, None, :].to(scores_BGMK.dtype)
    probs_BHTK = _over_prompts(scores_BGMK).to(v_HKD.dtype).reshape(B, H, T, K)
    return (probs_BHTK @ v_HKD).transpose(1, 2)


def _over_prompts(scores_BGMK: Tensor) -> Tensor:
    """Softmax over K. On a CPU one over the ten numbers of a row is slow, and over ten rows it is not."""
    if scores_BGMK.device.type != "cpu":
        return scores_BGMK.softmax(dim=-1)
    return scores_BGMK.transpose(-1, -2).contiguous().softmax(dim=-2).transpose(-1, -2)


def join_prompts(
    fn: AttentionFunction,
    module: nn.Module,
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    mask: Tensor | None,
    prompt_k_GKD: Tensor,
    prompt_v_GKD: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Prompts in the *same* softmax as the text and no gate: the "random-init attention" of the paper's Table 4.

    The prompts are put before the text's keys and values and every query sees all of them, so `fn` itself does the
    work.

    Raises:
        ValueError: The mask is of a kind that cannot be widened (flash and flex attention).
    """
    name = _name(fn)
    B, _, T, _ = q_BHTD.shape
    K, S = prompt_k_GKD.shape[-2], k_BGSD.shape[-2]
    if mask is None:
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        if causal and T > 1:  # the function would draw a square causal mask that does not fit K more keys
            # Query t sees keys 0 to t: where there are more keys than queries, they are a static cache's empty places.
            mask = torch.ones(T, S, dtype=torch.bool, device=q_BHTD.device).tril()[None, None]
    if mask is not None or name == "flash_attention_forward":
        if not isinstance(mask, Tensor) or mask.dim() != 4 or name == "flash_attention_forward":
            raise ValueError(
                'attention="vanilla" needs a 4-D attention mask to put its prompts into, and this attention '
                'implementation has none. Load the base with attn_implementation="sdpa" or "eager".'
            )
        seen = torch.ones if mask.dtype == torch.bool else torch.zeros
        prefix = seen(*mask.shape[:-1], K, dtype=mask.dtype, device=mask.device)
        mask = torch.cat([prefix, mask[..., :S]], dim=-1)
        if name == "eager_attention_forward" and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q_BHTD.dtype).masked_fill(~mask, torch.finfo(q_BHTD.dtype).min)
    key = torch.cat([prompt_k_GKD.expand(B, -1, -1, -1).to(k_BGSD.dtype), k_BGSD], dim=2)
    value = torch.cat([prompt_v_GKD.expand(B, -1, -1, -1).to(v_BGSD.dtype), v_BGSD], dim=2)
    return fn(module, q_BHTD, key, value, mask, **kwargs)


def _name(fn: AttentionFunction) -> str:
    """A function's name; of a functools.partial, that of what it calls."""
    return str(getattr(getattr(fn, "func", fn), "__name__", ""))


def _seam_around(fn: AttentionFunction) -> AttentionFunction:
    """`fn`, with prompts for the modules that carry them."""

    def seam(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        layer = module._modules.get(CHILD)
        if layer is None:
            return fn(module, query, key, value, attention_mask, *args, **kwargs)
        return layer.attend(fn, module, query, key, value, attention_mask, *args, **kwargs)  # type: ignore[operator]

    seam.__name__ = _name(fn)
    return seam


def _get_interface(self: AttentionInterface, attn_implementation: str, default: AttentionFunction) -> AttentionFunction:
    fn = _ORIGINAL_GET_INTERFACE(self, attn_implementation, default)
    seam = _SEAMS.get(fn)
    if seam is None:
        seam = _SEAMS[fn] = _seam_around(fn)
    return seam


def install_seam() -> None:
    """Puts the seam into transformers' attention look-up, once per process. Models without adapters pass through."""
    AttentionInterface.get_interface = _get_interface  # type: ignore[method-assign]


def uses_interface(module: nn.Module) -> bool:
    """Whether this attention module's forward asks transformers' `AttentionInterface` for its function.

    Read from the compiled code of the class, so it needs no forward pass and works on the meta device.
    """
    code = inspect.unwrap(type(module).forward).__code__
    return "ALL_ATTENTION_FUNCTIONS" in code.co_names and "get_interface" in code.co_names
