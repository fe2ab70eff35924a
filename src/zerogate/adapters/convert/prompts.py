"""What all converters share: the adapter in memory (`PromptAdapter`), what must be known of its base (`Base`), gates.

Every format is read into a `PromptAdapter` and written from one, so n formats cost n readers and n writers:

    adapter = read_official("adapter.pth", gate_activation="tanh")
    write_peft(adapter.with_gates("identity").with_one_gate(lossy="mean"), "folder", base)

A gate g multiplies as `activation(scale * g)`. Where formats disagree on that, the *effective* gate is what must
survive;
where they agree, the stored numbers pass through untouched, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..layouts import find_blocks, unknown_family

ACTIVATIONS = ("tanh", "identity")
_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj")  # what families call the projection after attention


@dataclass(frozen=True)
class Base:
    """What a converter must know of the frozen model. Make one with `Base.from_config` or `Base.llama`.

    Attributes:
        modules: Full name of the self-attention module of each layer, by absolute layer index, bottom up.
        width, heads, kv_heads, head_dim: Hidden size C, query heads H, key/value heads G, head size D.
        name: How an adapter shall record its base: a folder, a Hub id, `pocket`; None records nothing.
        model_type: transformers' name of the family.
        key_norm: Whether keys are normed (QK-norm).
        output_bias: Whether the output projection has a bias.
    """

    modules: dict[int, str]
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    name: str | None = None
    model_type: str = "llama"
    key_norm: bool = False
    output_bias: bool = False

    @classmethod
    def llama(cls, num_layers: int, width: int, heads: int, name: str | None = None) -> Base:
        """A LLaMA by its three numbers N, C, H, for a base that is not on this machine.

        Raises:
            ValueError: The numbers cannot be a LLaMA's.
        """
        if min(num_layers, width, heads) < 1 or width % heads:
            raise ValueError(
                f"no LLaMA has N={num_layers} layers, C={width} channels and H={heads} heads: C must be a multiple of "
                "H."
            )
        modules = {i: f"model.layers.{i}.self_attn" for i in range(num_layers)}
        return cls(modules, width, heads, heads, width // heads, name)

    @classmethod
    def from_config(cls, config: Any, name: str | None = None) -> Base:
        """From a transformers configuration. The model is built on the meta device: no weights are read or made.

        Raises:
            ValueError: The model has no attention that zerogate knows, or several stacks of it.
        """
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        blocks = find_blocks(model)
        if not blocks:
            raise ValueError(unknown_family(model))
        if len(stacks := {block.stack for block in blocks}) > 1:
            raise ValueError(
                f"{type(model).__name__} has several stacks of attention ({', '.join(sorted(stacks))}); adapters are "
                "converted for one."
            )
        module = model.get_submodule(blocks[0].name)
        layout = blocks[0].layout
        H, G, D, C = layout.shape(module)
        return cls(
            modules={block.index: block.name for block in blocks},
            width=C,
            heads=H,
            kv_heads=G,
            head_dim=D,
            name=name,
            model_type=config.model_type,
            key_norm=layout.key_norm is not None,
            output_bias=any(key in _OUTPUTS and child.bias is not None for key, child in module.named_children()),
        )

    def check(self, adapter: PromptAdapter, source: str) -> None:
        """Raises ValueError, naming the numbers, unless `adapter` fits this base."""
        called = f"the base {self.name!r}" if self.name else "the base"
        if adapter.width != self.width:
            raise ValueError(
                f"{source} was made for a base of hidden size C={adapter.width}, and {called} has C={self.width}."
            )
        if adapter.gates_LH.shape[1] not in (1, self.heads):
            raise ValueError(
                f"{source} has gates for H={adapter.gates_LH.shape[1]} heads, and {called} has H={self.heads}."
            )
        for index, module in adapter.modules.items():
            if self.modules.get(index) != module:
                has = f"{self.modules[index]} there" if index in self.modules else f"{len(self.modules)} layers"
                raise ValueError(f"{source} adapts {module} (layer {index}), and {called} has {has}.")

    def start(self, adapter: PromptAdapter, what: str) -> int:
        """How many layers lie below the adapted ones.

        Raises:
            ValueError: The adapted layers are not the topmost ones without a gap.
        """
        indices = list(self.modules)
        below = len(indices) - len(adapter.modules)
        if list(adapter.modules) != indices[below:]:
            raise ValueError(
                f"{what} can hold only the topmost layers without a gap, which for L={len(adapter.modules)} would be "
                f"{spans(indices[below:])} of N={len(indices)}; this adapter sits in {spans(list(adapter.modules))}."
            )
        return below


@dataclass(frozen=True)
class PromptAdapter:
    """Adaption prompts and gates in memory, independent of any file format.

    Attributes:
        modules: Full name of the adapted attention module, by absolute layer index, bottom up: L entries.
        prompts_LKC: Prompts, fp32.
        gates_LH: Gates as stored, fp32: [L, H], or [L, 1] where a layer has one gate.
        activation: `tanh` or `identity`; the effective gate is `activation(scale * g)`.
        scale: The factor inside the activation.
        topmost: Whether these are known to be the topmost layers of their base.
        base_name: The base as recorded, or None.
        target_modules: What a zerogate folder says of its target modules, kept for writing one again.
        notes: What a person should know that could not be an error.
    """

    modules: dict[int, str]
    prompts_LKC: Tensor
    gates_LH: Tensor
    activation: str = "identity"
    scale: float = 1.0
    topmost: bool = False
    base_name: str | None = None
    target_modules: list[str] | str | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        L = len(self.modules)
        assert self.prompts_LKC.dim() == 3 and self.gates_LH.dim() == 2
        assert len(self.prompts_LKC) == len(self.gates_LH) == L > 0
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"the gate activation must be tanh or identity, not {self.activation!r}.")
        for what, tensor in (("prompts", self.prompts_LKC), ("gates", self.gates_LH)):
            if len(bad := (~tensor.isfinite()).flatten(1).any(1).nonzero().flatten()):
                raise ValueError(
                    f"the {what} of layer {list(self.modules)[int(bad[0])]} contain NaN or infinity: this training "
                    "run diverged."
                )

    @property
    def prompt_length(self) -> int:
        """K, prompt positions per layer."""
        return self.prompts_LKC.shape[1]

    @property
    def width(self) -> int:
        """C, the base's hidden size."""
        return self.prompts_LKC.shape[2]

    @property
    def one_gate(self) -> bool:
        """Whether each layer has a single gate for all heads."""
        return self.gates_LH.shape[1] == 1

    def num_parameters(self) -> int:
        """Trained numbers in all."""
        return self.prompts_LKC.numel() + self.gates_LH.numel()

    def effective_gates(self) -> Tensor:
        """What multiplies the prompts' attention, `activation(scale * g)`: [L, H] or [L, 1]."""
        scaled = self.scale * self.gates_LH
        return scaled.tanh() if self.activation == "tanh" else scaled

    def with_gates(self, activation: str) -> PromptAdapter:
        """The same adapter with gates stored for `activation` and scale 1. Changes no effective gate.

        Raises:
            ValueError: `tanh` is asked for and an effective gate is outside (-1, 1), where tanh cannot reach.
        """
        if activation == self.activation:
            return replace(self, gates_LH=self.scale * self.gates_LH, scale=1.0)
        if activation == "identity":
            return replace(self, gates_LH=self.effective_gates(), activation="identity", scale=1.0)
        effective_LH = self.effective_gates()
        if (beyond := effective_LH.abs() >= 1).any():
            layer, head = beyond.nonzero()[0].tolist()
            raise ValueError(
                f"{int(beyond.sum())} of {beyond.numel()} gates are not inside (-1, 1), so no tanh gives them: the "
                f"first is {effective_LH[layer, head]:.4f} (layer {list(self.modules)[layer]}, head {head}). Keep "
                "these gates as they are (identity)."
            )
        return replace(self, gates_LH=effective_LH.double().atanh().float(), activation="tanh", scale=1.0)

    def with_gate_per_head(self, heads: int) -> PromptAdapter:
        """The same adapter with one gate per head; a layer's single gate is given to all its heads."""
        return replace(self, gates_LH=self.gates_LH.expand(-1, heads).contiguous()) if self.one_gate else self

    def with_one_gate(self, lossy: str | None = None) -> PromptAdapter:
        """The same adapter with one gate per layer.

        Args:
            lossy: None refuses to lose anything; `mean` puts the mean of the effective gates in their place.

        Raises:
            ValueError: Heads differ and `lossy` is None.
        """
        if self.one_gate:
            return self
        effective_LH = self.effective_gates()
        differ = (effective_LH != effective_LH[:, :1]).any(1)
        if not differ.any():
            return replace(self, gates_LH=self.gates_LH[:, :1].contiguous())
        spread = effective_LH.max(1).values - effective_LH.min(1).values
        widest = int(spread.argmax())
        low, high = float(effective_LH[widest].min()), float(effective_LH[widest].max())
        where = (
            f"{int(differ.sum())} of {len(differ)} layers; most in layer {list(self.modules)[widest]}, from {low:.4f} "
            f"to {high:.4f}"
        )
        if lossy is None:
            raise ValueError(
                f"one gate per layer cannot hold gates that differ between heads, and they do in {where}. To put "
                "their mean in their place, which changes what the model says, ask for it: lossy 'mean' (--lossy "
                "mean)."
            )
        if lossy != "mean":
            raise ValueError(f"lossy={lossy!r} is unknown; there is 'mean'.")
        note = (
            f"lossy: gates differed between heads in {where}; each layer has their mean now, and what the model says "
            "will differ."
        )
        mean_L1 = effective_LH.mean(1, keepdim=True)
        return replace(self, gates_LH=mean_L1, activation="identity", scale=1.0, notes=(*self.notes, note))


def spans(indices: list[int]) -> str:
    """Layer indices in words: `layers 2-5`, `layers 0, 3-4`, `layer 7`."""
    parts: list[list[int]] = []
    for i in indices:
        if parts and i == parts[-1][-1] + 1:
            parts[-1].append(i)
        else:
            parts.append([i])
    words = [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts]
    return f"layer{'s' if len(indices) > 1 else ''} {', '.join(words)}"
