"""`ZeroInitModel`: the PEFT tuner that puts zero-init layers on a frozen model, and takes them off again.

PEFT drives it: `get_peft_model`, `add_adapter`, `set_adapter`, `disable_adapter`, `save_pretrained`,
`from_pretrained` and the trainers built on them call the methods of `BaseTuner` that are overridden here. What is
ours: which attention modules a config means, the seam and its verification, rows with different adapters, the cut
below the first adapted layer, and a plain answer on merging.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import CHILD, install_seam, uses_interface
from ..bank import RowAdapters, repeats_of_rows
from ..layouts import Block
from ..thin_seams import SAME_SOFTMAX, THIN_SEAMS
from ..tuner import RowTuner
from .blocks import choose_blocks
from .config import ZeroInitConfig
from .given import check_images, check_one_encoder, images_of
from .hooks import Cut, SeamCheck, place
from .image import ImageProjector, Images
from .layer import CANNOT_MERGE, ZeroInitLayer
from .showing import put, put_back, take_along


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
        self._seen: dict[str, Images] = {}  # the images that the layers have at the moment, by adapter
        super().__init__(*args, **kwargs)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # the model itself, not its model_type, says where its attention is: see _prepare_model

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Finds and checks the attention modules before anything is changed."""
        check_images(peft_config)
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

    def _looking(
        self, features: Any, mask: Any, repeats: int = 1, adapters: list[str] | None = None
    ) -> AbstractContextManager[None]:
        """Inside, the layers have the images of a batch and no others.

        Args:
            features, mask: as for `forward`.
            repeats: how many times a generation may repeat each row.
            adapters: who looks. None: each row's own adapter, or all active ones.
        """
        if features is None and mask is None:
            return self._showing({}) if self._seen else nullcontext()
        rows = next((layer.rows for layer in self._layers()), None) if adapters is None else None
        active = adapters or (self.active_adapters if rows is None else rows.adapters)
        projectors = self._projectors(active)
        if rows is None:
            check_one_encoder({name: self.peft_config[name] for name in projectors})
        names = None if rows is None else rows.given
        return self._showing(images_of(features, mask, names, projectors, active, repeats))

    @contextmanager
    def _showing(self, seen: dict[str, Images]) -> Iterator[None]:
        """Inside, the layers have these images, and so has what activation checkpointing will run of them again."""
        early = {name for name in seen if self.peft_config[name].image_early is not None}

        def shown_to(layer: ZeroInitLayer) -> dict[str, Images]:
            # With early fusion images and prompts never meet in one layer.
            return {name: images for name, images in seen.items() if name not in early or name not in layer.prompt}

        seen_before, before = self._seen, put([(layer, shown_to(layer)) for layer in self._layers()])
        again = bool(seen) and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        checkpoints = take_along(self.model) if again else []
        self._seen = seen
        try:
            yield
        finally:
            self._seen = seen_before
            put(before)
            put_back(checkpoints)

    def forward(self, *args: Any, image_features: Any = None, image_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """As the base's forward, with images.

        Args:
            args, kwargs: the base's own, and `adapter_names`.
            image_features: features of the batch's images (`zerogate.vision`): [B, N, F], or [B, F], or a list with
                [n, F] or None for each row. All active adapters that take images look at them.
            image_mask: [B, N], which of N images there are, for features in one tensor.
        """
        run = super().forward  # torch.compile (2.13, Python 3.11) cannot follow `super` inside of two `with`
        rows = self._enable_peft_forward_hooks(adapter_names=kwargs.pop("adapter_names", None))
        with rows, self._looking(image_features, image_mask):
            return run(*args, **kwargs)

    def generate(self, *args: Any, image_features: Any = None, image_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """As the base's `generate`, with images as in `forward`. Prompts and base must not change while it runs."""
        layers, repeats = self._layers(), repeats_of_rows(self.model, args, kwargs)
        with self._looking(image_features, image_mask, repeats):
            for layer in layers:
                layer.held = {}
            try:
                return self.model.generate(*args, **kwargs)  # type: ignore[operator]
            finally:
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
        found = {}
        with self._looking(None if image_features is None else [image_features], None, adapters=[adapter_name]):
            for name, module in self.model.named_modules():
                layer = module._modules.get(CHILD)
                if isinstance(layer, ZeroInitLayer):
                    written = layer.written_out(adapter_name, module, dtype)
                    if written is not None:
                        found[name] = written
        return found

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
