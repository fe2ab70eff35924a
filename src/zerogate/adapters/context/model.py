"""`ContextModel`: the PEFT tuner that learns the words before a class's name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..bank import RowAdapters
from ..hooked import HookedModel
from ..layouts import find_blocks
from .config import ContextConfig
from .layer import ContextLayer, Role


class Place(NamedTuple):
    """One place: what it is, which layer of its encoder (the words are layer 0), whether the last, and its width."""

    role: Role
    depth: int
    last: bool
    width: int


class ContextModel(HookedModel):
    """A model of pictures and texts (CLIP, SigLIP) with learned context."""

    layer_class = ContextLayer
    child = "learned_context"
    prefix = "learned_context."

    def choose(self, config: ContextConfig, model: nn.Module) -> dict[str, Place]:
        """The word embeddings, and with a depth layers of both encoders.

        Raises:
            ValueError: It is no such model, its context was not looked up, or it has fewer layers than `depth`.
        """
        stacks: dict[str, list[Any]] = {"text": [], "vision": []}
        for block in find_blocks(model):
            for kind, members in stacks.items():
                if kind in block.stack:
                    members.append(block)
        if not (stacks["text"] and stacks["vision"]):
            raise ValueError(
                f"{type(model).__name__} does not have a text encoder and a vision encoder; learned context is for "
                "CLIP and its like."
            )
        if not config.context_ids or config.context_start is None:
            raise ValueError(
                "context_ids and context_start are not known: give the tokens of the context, and how many stand "
                "before them (in a recipe the tokenizer is asked)."
            )
        depths = [len(stacks["text"])] + ([len(stacks["vision"])] if config.coupled else [])
        if config.depth > min(depths):
            raise ValueError(f"depth={config.depth} is more than the {min(depths)} layers there are.")
        root = stacks["text"][0].stack.split(".encoder.")[0]
        words = f"{root}.embeddings.token_embedding"
        embedding: Any = model.get_submodule(words)
        text_width = embedding.weight.shape[1]
        places = {words: Place("words", 0, False, text_width)}
        for block in stacks["text"][1 : config.depth]:
            places[f"{block.stack}.{block.index}"] = Place("text", block.index, False, text_width)
        pictures = stacks["vision"] if config.coupled else []
        for block in pictures:
            last = block is pictures[-1]
            if block.index < config.depth or last:
                width = block.layout.shape(model.get_submodule(block.name))[3]
                places[f"{block.stack}.{block.index}"] = Place("picture", block.index, last, width)
        return places

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter. Texts come before pictures, as the models have them."""
        count = len(config.context_ids)
        if chosen.role == "words":
            weight_VC: Any = target.weight
            layer.add_context(adapter_name, weight_VC.detach()[config.context_ids].clone(), config.context_start)
            if config.conditional:
                if not layer.meta:
                    layer.handles.append(self.model.register_forward_hook(self._read_for_each, with_kwargs=True))
                layer.add_meta(adapter_name, self._features(), chosen.width)
        elif chosen.role == "text":
            initial = torch.empty(count, chosen.width).normal_(std=0.02)
            layer.add_context(adapter_name, initial, config.context_start)
        else:
            if chosen.depth < config.depth:
                source = self._contexts()[chosen.depth]
                layer.add_coupling(adapter_name, source, chosen.width, 0 if chosen.depth == 0 else count)
            if chosen.last:
                layer.taken_off[adapter_name] = count

    def _read_for_each(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the model: where the context depends on the picture, every picture reads all texts for itself."""
        words = self._contexts()[0]
        if words.disable_adapters or not set(words.active_adapters) & set(words.meta):
            return None
        if "input_ids" not in kwargs:
            raise ValueError("Context that depends on the picture needs the texts as input_ids=, by name.")
        unit_BF = output.image_embeds
        texts = {name: kwargs[name] for name in ("input_ids", "attention_mask") if kwargs.get(name) is not None}
        B, N = unit_BF.shape[0], texts["input_ids"].shape[0]
        with _condition(words, unit_BF.repeat_interleave(N, dim=0)):
            read_F = model.get_text_features(**{key: value.repeat(B, 1) for key, value in texts.items()}).pooler_output
        read_BNF = (read_F / read_F.norm(dim=-1, keepdim=True)).view(B, N, -1)
        logits_BN = torch.einsum("bf,bnf->bn", unit_BF, read_BNF) * model.logit_scale.exp()
        if (bias := getattr(model, "logit_bias", None)) is not None:
            logits_BN = logits_BN + bias
        output.logits_per_image, output.logits_per_text, output.text_embeds = logits_BN, logits_BN.t(), read_BNF
        return output

    def _contexts(self) -> list[ContextLayer]:
        """The layers that hold context, by depth."""
        return [m for m in self.model.modules() if isinstance(m, ContextLayer) and len(m.context)]

    def _features(self) -> int:
        settings = self.get_model_config(self.model)
        if (size := settings.get("projection_dim")) is not None:
            return int(size)
        return int(settings["vision_config"]["hidden_size"])

    def _asked_rows(self, names: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RowAdapters:
        raise ValueError("Adapters with learned context cannot share a batch (adapter_names); run them one by one.")


@contextmanager
def _condition(words: ContextLayer, features: Tensor) -> Iterator[None]:
    words.condition = features
    try:
        yield
    finally:
        words.condition = None
