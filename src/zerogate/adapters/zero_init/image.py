"""Images in the prompts (LLaMA-Adapter, section 3.3): the projector that makes an image token, and what a row of a
batch then adds to the attention.

The image token I is added to all K prompts of a layer. Keys and values are linear in the prompt, so with k_I = W_k I
and v_I = W_v I the keys become k_P + k_I and the values v_P + v_I. A softmax does not change when all its scores move
by the same q k_I, and its weights sum to 1:

    softmax(q (k_P + k_I)^T) (v_P + v_I)  =  softmax(q k_P^T) v_P  +  v_I

So one image costs one projected vector per layer and no key at all, whatever K is. Several images are several sets of
prompts in one softmax, which factors the same way: softmax(q k_P^T) v_P + sum_n softmax_n(q k_I^T) v_I. Where the keys
are not linear in the prompt (QK-norm, clipped projections, capped scores) the sets are written out.

It follows that a single image is the same v_I to every word: what the text asks for cannot choose what is seen of it.
With several tokens per image (`image_tokens`, beyond the paper) each is one of those sets, and attention chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledLinear(nn.Module):
    """A linear layer whose stored weight is `fan_in` times the one that acts.

    Adam moves every stored number by the learning rate, and what moves together adds up over the inputs. Stored like
    this, the output moves by the rate whatever the width, as a prompt does: one rate serves prompts, gates and
    projector.

    Args:
        inputs, outputs: sizes.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.float32, device=device))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float32, device=device))
        nn.init.normal_(self.weight, std=inputs**0.5)  # what acts has a standard deviation of 1/sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return F.linear(x, self.weight / self.weight.shape[1], self.bias)


class ImageProjector(nn.Module):
    """Image features of M layers of an encoder -> image tokens: a small MLP over their channels, in fp32.

    Args:
        layers: M.
        channels: of one layer's feature.
        hidden: width of the MLP (the paper's is 64).
        width: C, the base's hidden size.
        tokens: per image (the paper's is 1).
    """

    def __init__(
        self,
        layers: int,
        channels: int,
        hidden: int,
        width: int,
        device: torch.device | None = None,
        tokens: int = 1,
    ) -> None:
        super().__init__()
        self.layers, self.channels, self.tokens = layers, channels, tokens
        self.down = ScaledLinear(layers * channels, hidden, device)
        self.up = ScaledLinear(hidden, tokens * width, device)

    def check(self, features: Tensor) -> None:
        """Raises ValueError unless `features` are [..., M * channels]."""
        if features.shape[-1] != self.layers * self.channels:
            raise ValueError(
                f"image_features have {features.shape[-1]} channels, but this adapter was made for {self.layers} "
                f"layers of {self.channels}: {self.layers * self.channels}."
            )

    def forward(self, features: Tensor) -> Tensor:
        """[..., M * channels] -> image tokens [..., tokens, C]. Each layer's feature is normed first: sizes differ."""
        self.check(features)
        x = features.to(self.down.weight.device, torch.float32).unflatten(-1, (self.layers, self.channels))
        x = F.layer_norm(x, (self.channels,)).flatten(-2)
        tokens: Tensor = self.up(F.silu(self.down(x)))
        return tokens.unflatten(-1, (self.tokens, -1))


@dataclass(eq=False)
class Images:
    """The images of a batch for one adapter, for the length of one forward pass or generation.

    Attributes:
        features_BNF: features of up to N images a row; zero where there is none.
        mask_BN: where there is one; a row may have none.
        projector: makes their tokens.
        repeats: how many times a generation may repeat each row; 1 in a forward pass.
        remembered: tokens, and keys and values by layer; within a generation nothing is computed twice.
    """

    features_BNF: Tensor
    mask_BN: Tensor
    projector: ImageProjector
    repeats: int = 1
    remembered: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def there(self) -> Tensor:
        """Which image tokens a row has, [B, N * tokens]."""
        return self.mask_BN.repeat_interleave(self.projector.tokens, dim=1)

    def tokens(self) -> Tensor:
        """The image tokens, [B, N * tokens, C], zero where there is no image.

        In training each layer asks anew: a small MLP beside a layer's own projections, and what activation
        checkpointing runs again is then whole.
        """
        return self.once(0, self._tokens)[0]

    def _tokens(self) -> tuple[Tensor]:
        tokens_BNIC = self.projector(self.features_BNF)
        return (tokens_BNIC.masked_fill(~self.mask_BN[..., None, None], 0.0).flatten(1, 2),)

    def once(self, key: int, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What `make` gives; without gradients it is asked once for each key."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return make()
        if key not in self.remembered:
            self.remembered[key] = make()
        return self.remembered[key]

    def rows(self, batch: int, *tensors: Tensor) -> list[Tensor]:
        """Tensors with a row for each of a batch's, in which a generation may have repeated rows (beams, several
        sequences).

        Raises:
            ValueError: the batch has neither B rows nor each of them repeated as generation does.
        """
        B = self.mask_BN.shape[0]
        if batch == B:
            return list(tensors)
        if batch != B * self.repeats:
            each = f" (or {B * self.repeats}, each of them {self.repeats} times)" if self.repeats > 1 else ""
            raise ValueError(
                f"image_features are for {B} rows{each}, but the batch has {batch}. Give one entry for each row, in "
                "their order; in a list None stands for a row without an image."
            )
        return [t.repeat_interleave(self.repeats, dim=0) for t in tensors]


def image_attention(q_BHTD: Tensor, k_BGND: Tensor, v_BHND: Tensor, mask_BN: Tensor, scaling: float) -> Tensor:
    """What images add beside the prompts: `sum_n softmax_n(q k_I^T) v_I`, the gate folded into the values.

    Args:
        q_BHTD: Queries.
        k_BGND: Image keys; unused where each row has one image.
        v_BHND: Gated image values, one per query head.
        mask_BN: Which images there are.
        scaling: What the attention multiplies its scores by.

    Returns:
        [B, T, H, D], or [B, 1, H, D] where there is one image a row; exactly 0 for rows without any.
    """
    there_BN = mask_BN.to(v_BHND.dtype)
    if v_BHND.shape[2] == 1:
        return (v_BHND * there_BN[:, None, :, None]).transpose(1, 2)
    B, H, T, D = q_BHTD.shape
    G, N = k_BGND.shape[1], k_BGND.shape[2]
    scores_BGMN = (q_BHTD.reshape(B, G, (H // G) * T, D) @ k_BGND.transpose(-1, -2)).float() * scaling
    scores_BGMN = scores_BGMN.masked_fill(~mask_BN[:, None, None, :], torch.finfo(torch.float32).min)
    probs_BHTN = scores_BGMN.softmax(dim=-1).to(v_BHND.dtype).reshape(B, H, T, N) * there_BN[:, None, None, :]
    return (probs_BHTN @ v_BHND).transpose(1, 2)
