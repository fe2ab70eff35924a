"""`ZeroInitModel`: the PEFT tuner that puts zero-init layers on a frozen model, and takes them off again.

PEFT drives it: `get_peft_model`, `add_adapter`, `set_adapter`, `disable_adapter`, `save_pretrained`,
`from_pretrained` and the trainers built on them call the methods of `BaseTuner` that are overridden here. What is
ours: which attention modules a config means, the seam and its verification, rows with different adapters, the cut
below the first adapted layer, and a plain answer on merging.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from ..attention import CHILD, install_seam, uses_interface
from ..bank import RowAdapters
from ..layouts import Block, find_blocks, unknown_family
from ..thin_seams import SAME_SOFTMAX, THIN_SEAMS
from ..tuner import RowTuner
from .config import ZeroInitConfig
from .hooks import Cut, SeamCheck, place
from .image import ImageProjector, Images, images_of
from .layer import CANNOT_MERGE, ZeroInitLayer


class ZeroInitModel(RowTuner):
    """A transformers model with adaption prompts and zero-init gates in its upper layers (arXiv 2303.16199)."""

    prefix = f"{CHILD}."
    tuner_layer_cls = ZeroInitLayer
    cannot_merge = CANNOT_MERGE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._targets: dict[str, Block] = {}
        self._early: set[str] = set()  # those of the targets that have no prompts, only images
        self._thin_seams: list[Any] = []  # each takes a thin seam off again
        self._hooks: list[SeamCheck | Cut] = []
        super().__init__(*args, **kwargs)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # the model itself, not its model_type, says where its attention is: see _prepare_model

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Finds and checks the attention modules before anything is changed."""
        _check_images(peft_config)
        blocks, early = choose_blocks(model, peft_config)
        self._early = {block.name for block in early}
        blocks = [*early, *blocks]
        self._targets = {block.name: block for block in blocks}
        for block in blocks:
            module = model.get_submodule(block.name)
            block.layout.check(module, block.name)
            if block.layout.seam == "interface" and not uses_interface(module):
                raise ValueError(
                    f"{block.name} ({type(module).__name__}) does not go through transformers' attention interface, "
                    "so prompts there would silently do nothing. Load the base with attn_implementation='eager', or "
                    "register a layout with a thin seam (docs/families.md)."
                )
            if peft_config.attention == "vanilla" and block.layout.seam not in SAME_SOFTMAX:
                raise ValueError(
                    f'attention="vanilla" needs the keys and values of the text, and {type(module).__name__} computes '
                    'its attention where they cannot be reached. Use attention="zero_init" with this family.'
                )
        install_seam()

    def _check_target_module_exists(self, peft_config: ZeroInitConfig, key: str) -> bool:  # type: ignore[override]
        return key in self._targets

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        block = self._targets[current_key]
        layer = target._modules.get(CHILD)
        if layer is None:
            layer = ZeroInitLayer(block.layout, target)
            target.add_module(CHILD, layer)
            if block.layout.seam != "interface":
                self._thin_seams.append(THIN_SEAMS[block.layout.seam](target, block.layout))
        elif not isinstance(layer, ZeroInitLayer):
            raise TypeError(
                f"{current_key} already has a child named {CHILD!r} that is no ZeroInitLayer: {type(layer)}."
            )
        tensors = [t for module in block.layout.projections(target) for t in (*module.parameters(), *module.buffers())]
        device = tensors[0].device  # of a buffer, where a quantised projection has nothing else
        layer.update_layer(adapter_name, peft_config, device, prompts=current_key not in self._early)
        if peft_config.image_layers is not None and not self._projectors([adapter_name]):
            layer.add_projector(adapter_name, peft_config)  # the lowest layer comes first

    def _layers(self) -> list[ZeroInitLayer]:
        return [module for module in self.model.modules() if isinstance(module, ZeroInitLayer)]

    def _projectors(self, names: list[str]) -> dict[str, ImageProjector]:
        """The projectors of those adapters that take images."""
        held = {name: module for layer in self._layers() for name, module in layer.projector.items()}
        return {name: held[name] for name in names if name in held}  # type: ignore[misc]

    def _look(self, features: Any, mask: Tensor | None) -> None:
        """Hands the images of a batch to the layers; None takes away those of the last."""
        layers = self._layers()
        rows = next((layer.rows for layer in layers), None)
        images: dict[str, Images] = {}
        if features is not None:
            names = rows.given if rows is not None else None
            projectors = self._projectors(rows.adapters if rows is not None else self.active_adapters)
            images = images_of(features, mask, names, projectors)
        for layer in layers:
            # With early fusion images and prompts never meet in one layer.
            layer.images = {
                name: shown
                for name, shown in images.items()
                if self.peft_config[name].image_early is None or name not in layer.prompt
            }

    def forward(self, *args: Any, image_features: Any = None, image_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """As the base's forward, with images.

        Args:
            args, kwargs: the base's own, and `adapter_names`.
            image_features: features of the batch's images (`zerogate.vision`): [B, N, F], or [B, F], or a list with
                [n, F] or None for each row.
            image_mask: [B, N], which of N images there are, for features in one tensor.
        """
        with self._enable_peft_forward_hooks(adapter_names=kwargs.pop("adapter_names", None)):
            self._look(image_features, image_mask)
            try:
                return super().forward(*args, **kwargs)
            finally:
                if not torch.is_grad_enabled():  # a backward pass may run layers again (activation checkpointing)
                    self._look(None, None)

    def generate(self, *args: Any, image_features: Any = None, image_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """As the base's `generate`, with images as in `forward`. Prompts and base must not change while it runs."""
        layers = self._layers()
        self._look(image_features, image_mask)
        for layer in layers:
            layer.held = {}
        try:
            return self.model.generate(*args, **kwargs)  # type: ignore[operator]
        finally:
            self._look(None, None)
            for layer in layers:
                layer.held = None

    @torch.no_grad()
    def written_out(
        self, adapter_name: str, dtype: torch.dtype, image_features: Tensor | None = None
    ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """What an adapter adds to attention, for whoever batches requests without this model's `forward` (serving).

        Args:
            adapter_name: the active adapter.
            dtype: of the queries that will meet it.
            image_features: [n, F], the images of one request.

        Returns:
            By the full name of the attention module keys and values [G, S, D] and gates [H].
        """
        self._look(None if image_features is None else [image_features], None)
        try:
            found = {}
            for name, module in self.model.named_modules():
                layer = module._modules.get(CHILD)
                if isinstance(layer, ZeroInitLayer):
                    written = layer.written_out(adapter_name, module, dtype)
                    if written is not None:
                        found[name] = written
            return found
        finally:
            self._look(None, None)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Attaches an adapter; then arms the check of the seam and moves the cut to the lowest adapted layer."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for hooks in self._hooks:
            hooks.remove()
        self._hooks = [SeamCheck(model), Cut(model)]

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter active (or several, whose contributions add up)."""
        if isinstance(adapter_name, list) and len(adapter_name) > 1:
            vanilla = [name for name in adapter_name if self.peft_config[name].attention == "vanilla"]
            if vanilla:
                raise ValueError(f'{vanilla} have attention="vanilla" and can be active only alone.')
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def _asked_rows(self, names: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RowAdapters:
        rows = super()._asked_rows(names, args, kwargs)
        vanilla = [name for name in rows.adapters if self.peft_config[name].attention == "vanilla"]
        if vanilla:
            raise ValueError(
                f'{", ".join(vanilla)}: adapters with attention="vanilla" cannot share a batch with others.'
            )
        return rows

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        if merge:
            raise ValueError(self.cannot_merge)
        for remove in [*self._thin_seams, *(hooks.remove for hooks in self._hooks)]:
            remove()
        for module in list(self.model.modules()):
            if isinstance(module._modules.get(CHILD), ZeroInitLayer):
                del module._modules[CHILD]
        super()._unload_and_optionally_merge(merge=False, **kwargs)  # modules_to_save, and PEFT's own marks
        return self.model


def _check_images(config: ZeroInitConfig) -> None:
    """Raises ValueError where a config names an encoder and nobody has looked what it gives."""
    takes_images = config.image_layers is not None or config.image_encoder is not None
    if takes_images and (not isinstance(config.image_layers, list) or config.image_channels is None):
        raise ValueError(
            f"image_layers={config.image_layers} and image_channels={config.image_channels}: an adapter that takes "
            "images needs the list of its encoder's layers and their channels. `zerogate train` fills them in; from "
            "Python: encoder = zerogate.vision.load_encoder(NAME); image_layers=encoder.layers, "
            "image_channels=encoder.channels."
        )
    if takes_images and config.task_type is None:
        raise ValueError(
            "An adapter that takes images needs a task_type, such as task_type='CAUSAL_LM': without one PEFT passes "
            "the adapter by and gives image_features to the base, which does not know them."
        )


def choose_blocks(model: nn.Module, config: ZeroInitConfig) -> tuple[list[Block], list[Block]]:
    """The attention modules that `config` means: the topmost L of each stack, or those it names; and those where
    images enter by early fusion, the lowest of each stack.

    Raises:
        ValueError: None is known, several stacks and no choice, L > N, an index out of range, names that match
        nothing, or early fusion where prompts lie.
    """
    known = find_blocks(model)
    if not known:
        raise ValueError(unknown_family(model))
    blocks = known
    if config.target_modules is not None or config.exclude_modules is not None:
        blocks = [block for block in known if check_target_module_exists(_names_only(config), block.name)]
        if not blocks:
            raise ValueError(
                f"target_modules={config.target_modules!r} without exclude_modules={config.exclude_modules!r} matches "
                f"none of this model's self-attention modules, which are {known[0].name} ... {known[-1].name}."
            )
    stacks: dict[str, list[Block]] = {}
    for block in blocks:
        stacks.setdefault(block.stack, []).append(block)
    if len(stacks) > 1 and config.target_modules is None:
        listing = ", ".join(f"{stack} ({len(members)} layers)" for stack, members in stacks.items())
        example = r".*" + next(iter(stacks)).replace(".", r"\.") + r"\..*"
        raise ValueError(
            f"{type(model).__name__} has several stacks of attention: {listing}. Say which to adapt, for example "
            f"target_modules={example!r}; '.*' adapts all, each in its topmost num_layers."
        )
    chosen = [block for members in stacks.values() for block in _choose_layers(members, config)]
    early = [block for members in stacks.values() for block in members[: config.image_early or 0]]
    if both := {block.name for block in chosen} & {block.name for block in early}:
        raise ValueError(
            f"image_early={config.image_early} and the prompts meet in {len(both)} layers, such as {min(both)}; early "
            f"fusion keeps them apart. Lower num_layers: at most {len(known) - (config.image_early or 0)} here."
        )
    return chosen, early


def _names_only(config: ZeroInitConfig) -> Any:
    """`config` as PEFT's matcher takes it, without layers: those are chosen here, per stack."""

    class Names:
        target_modules = ".*" if config.target_modules is None else config.target_modules
        exclude_modules = config.exclude_modules
        target_parameters = None

    return Names


def _choose_layers(members: list[Block], config: ZeroInitConfig) -> list[Block]:
    if config.layers_to_transform is not None:
        wanted = {int(i) for i in config.layers_to_transform}  # type: ignore[union-attr]
        there = {block.index for block in members}
        if missing := sorted(wanted - there):
            raise ValueError(
                f"layers_to_transform names layers {missing}, and {members[0].stack} has attention in layers "
                f"{min(there)} to {max(there)}."
            )
        return [block for block in members if block.index in wanted]
    L, N = config.num_layers or len(members), len(members)
    if L > N:
        raise ValueError(f"num_layers={L} (L) is more than the {N} attention layers (N) of {members[0].stack}.")
    return members[N - L :]


def gates(model: nn.Module, adapter: str = "default") -> dict[int, Tensor]:
    """Effective gates of an adapter, by layer index: after scale and activation, fp32, detached, [H] (or [1]).

    Raises:
        ValueError: No such adapter with gates, or it spans several stacks (take the layers' `effective_gate` there).
    """
    found: dict[int, Tensor] = {}
    stacks = set()
    for name, layer in model.named_modules():
        if isinstance(layer, ZeroInitLayer) and adapter in layer.gate:
            stack, index = place(name)
            stacks.add(stack)
            found[index] = layer.effective_gate(adapter).detach().float()
    if not found or len(stacks) > 1:
        raise ValueError(f"Adapter {adapter!r} has gates in {len(stacks)} stacks of this model, and one is needed.")
    return found
