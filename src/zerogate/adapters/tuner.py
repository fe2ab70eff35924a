"""What our PEFT tuners share: an adapter for each row of a batch, the saved dtype, one active adapter on all layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import ModulesToSaveWrapper
from torch import Tensor

from .bank import RowAdapters, asked_rows


class RowTuner(BaseTuner):
    """A tuner whose layers have a field `rows`, and whose configs have a `save_dtype`.

    Attributes:
        cannot_merge: why its adapters cannot be merged, and what to do instead.
    """

    peft_config: dict[str, Any]
    cannot_merge: str

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT enters this around each forward pass and generation; `adapter_names` gives each row its adapter."""
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        rows = self._asked_rows(names, args, kwargs)
        layers: list[Any] = [m for m in self.model.modules() if isinstance(m, self.tuner_layer_cls)]
        wrappers = [m for m in self.model.modules() if isinstance(m, ModulesToSaveWrapper)]
        forwards = [wrapper.__dict__.get("forward") for wrapper in wrappers]
        try:
            for layer in layers:
                layer.rows = rows
            for wrapper in wrappers:
                wrapper.forward = partial(_row_by_row, wrapper, rows)  # type: ignore[method-assign]
            yield
        finally:
            for layer in layers:
                layer.rows = None
            for wrapper, forward in zip(wrappers, forwards, strict=True):
                del wrapper.forward
                if forward is not None:
                    wrapper.forward = forward  # type: ignore[method-assign]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """PEFT calls this inside of `_enable_peft_forward_hooks`, but for MPT leaves adapter_names to us."""
        with self._enable_peft_forward_hooks(adapter_names=kwargs.pop("adapter_names", None)):
            return super().forward(*args, **kwargs)

    def _asked_rows(self, names: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RowAdapters:
        return asked_rows(names, self.peft_config, self.model, args, kwargs)

    @classmethod
    def _get_adapter_state_dict(cls, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        state = super()._get_adapter_state_dict(**kwargs)
        dtype = getattr(torch, kwargs["config"].save_dtype)
        return {name: tensor.to(dtype) for name, tensor in state.items()}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """A file's name of a tensor: without the adapter's. PEFT finds that only before the key's last part, and a
        module may hold more below it (`projector.default.down.weight`)."""
        place, found, below = key.rpartition(f".{cls.prefix}")
        kind, _, rest = below.partition(".")
        if found and rest.startswith(f"{adapter_name}."):
            return f"{place}{found}{kind}.{rest.removeprefix(f'{adapter_name}.')}"
        shorter: str = super()._remove_adapter_name_from_key(key, adapter_name)
        return shorter

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter. If it was active another becomes so, the same one on every layer.

        PEFT chooses layer by layer, which differs where adapters lie on different layers.
        """
        active = [name for name in self.active_adapters if name != adapter_name]
        super().delete_adapter(adapter_name)
        active = active or list(self.peft_config)[:1]
        if active:
            self.set_adapter(active, inference_mode=self.peft_config[active[0]].inference_mode)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Raises ValueError: such an adapter cannot be merged."""
        raise ValueError(self.cannot_merge)


def _row_by_row(wrapper: Any, rows: RowAdapters, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A whole module trained beside the adapters (`modules_to_save`): each row's own copy, or the base's."""
    if wrapper.disable_adapters:
        out: Tensor = wrapper.original_module(x, *args, **kwargs)
        return out
    copies = dict(wrapper.modules_to_save.items())
    places: dict[Any, list[int]] = {}
    for row, name in enumerate(rows.names_of(x)):
        places.setdefault(copies.get(name, wrapper.original_module), []).append(row)
    parts = [module(x[own], *args, **kwargs) for module, own in places.items()]
    order = torch.tensor([row for own in places.values() for row in own], device=x.device)
    return torch.cat(parts)[order.argsort()]
