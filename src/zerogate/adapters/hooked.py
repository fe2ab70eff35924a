"""What the tuners share that sit on single layers of the base and act through their hooks.

The layer of the base stays what it is, under its own name and with all its attributes: PEFT's way of wrapping would put
another module in its place. So quantised layers, code that reads `.weight` or `.in_features`, and several adapters on
overlapping layers need no special care. The tuner's own layer is a child of it that holds the parameters, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .bank import RowAdapters
from .tuner import RowTuner


class HookedLayer(nn.Module, BaseTunerLayer):
    """A child of one layer of the base, with the parameters of every adapter there and the hooks that apply them."""

    cannot_merge: ClassVar[str]

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__()
        self.name = name
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        self.device = tensors[0].device  # of a buffer, where a quantised layer has nothing else
        self.rows: RowAdapters | None = None  # set around one forward pass or generation (HookedModel)
        self.reached = False  # whether the hooks have ever run: checked after the parent's first pass (HookedModel)
        self.handles: list[RemovableHandle] = []
        self.merged_adapters: list[str] = []

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HookedLayer:
        """`.to`, `.cuda`, `.half` and their like: parameters move with the model, and stay fp32 unrounded."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        device = next((p.device for p in self.parameters()), None)
        self.device = self.device if device is None else device
        return self

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """PEFT asks for this after `low_cpu_mem_usage=True`: what came from the file becomes fp32, whatever it was."""
        for attribute in self.adapter_layer_names:
            values: Any = getattr(self, attribute)
            if adapter_name not in values:
                continue
            value = values[adapter_name]
            if isinstance(value, nn.Module):
                if not any(p.is_meta for p in value.parameters()):
                    value.to(device or self.device, torch.float32)
            elif not value.is_meta:
                moved = value.detach().to(device or self.device, torch.float32)
                values[adapter_name] = nn.Parameter(moved, requires_grad=value.requires_grad)

    def by_row(self, rows: RowAdapters, x: Tensor, here: list[str], delta: Callable[[str, Tensor], Tensor]) -> Any:
        """What each row's own adapter adds; None where no row's adapter is among those that are `here`.

        Args:
            rows: The adapter of each row of the batch.
            x: [B, ..., C]; or [B T, C], as OPT has it in its MLP.
            here: Adapters that have a part in this.
            delta: (adapter, some rows of x) -> what is to be added to them.
        """
        wanted = [name for name in rows.adapters if name in here]
        if not wanted:
            return None
        if ".experts." in self.name:
            raise ValueError(
                f"{self.name} sees the tokens of a batch out of their order, so its rows cannot have an adapter each. "
                "Run the adapters one by one."
            )
        names = rows.names_of(x)
        total = None
        for adapter in wanted:
            index = torch.tensor([i for i, name in enumerate(names) if name == adapter], device=x.device)
            part = delta(adapter, x.index_select(0, index))
            if total is None:
                total = part.new_zeros(x.shape[0], *part.shape[1:])
            total = total.index_copy(0, index, part)
        return total

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError."""
        raise ValueError(self.cannot_merge)

    def unmerge(self) -> None:
        """Raises ValueError: nothing is ever merged."""
        raise ValueError(self.cannot_merge)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """No: what is added is not a change of a weight matrix alone."""
        return False


def names_of(config: Any, target_modules: list[str] | str) -> Any:
    """`config` as PEFT's matcher takes it, with these targets and without layers: those are a subclass's affair."""

    class Names:
        exclude_modules = config.exclude_modules
        modules_to_save = config.modules_to_save
        target_parameters = None

    Names.target_modules = target_modules  # type: ignore[attr-defined]
    return Names


class HookedModel(RowTuner):
    """A tuner whose layers are `HookedLayer`s. A subclass chooses the layers of the base and makes its own for them."""

    layer_class: ClassVar[type[HookedLayer]]
    child: ClassVar[str]
    tuner_layer_cls = HookedLayer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._targets: dict[str, Any] = {}
        self._checks: dict[str, RemovableHandle] = {}
        super().__init__(*args, **kwargs)

    @property
    def cannot_merge(self) -> str:  # type: ignore[override]
        """Its layers say why."""
        return self.layer_class.cannot_merge

    def choose(self, config: Any, model: nn.Module) -> dict[str, Any]:
        """The full names of the layers to adapt, each with what `add` needs to know of it."""
        raise NotImplementedError

    def add(self, layer: Any, adapter_name: str, config: Any, target: nn.Module, chosen: Any) -> None:
        """Gives `layer` a new adapter."""
        raise NotImplementedError

    # --- attaching ---------------------------------------------------------------------------------------------------

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        return peft_config  # made whole with the model at hand: see choose

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Finds and checks the layers before anything is changed."""
        self._targets = self.choose(peft_config, model)

    def _check_target_module_exists(self, peft_config: Any, key: str) -> Any:  # type: ignore[override]
        return True if key in self._targets else check_target_module_exists(names_of(peft_config, []), key)

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
        layer = target._modules.get(self.child)
        if layer is None:
            layer = self.layer_class(current_key, target)
            target.add_module(self.child, layer)
            holder = current_key.rpartition(".")[0]
            self._checks[current_key] = parent.register_forward_hook(partial(self._check, current_key, layer, holder))
        elif not isinstance(layer, self.layer_class):
            raise TypeError(f"{current_key} already has a child named {self.child!r} of another kind: {type(layer)}.")
        self.add(layer, adapter_name, peft_config, target, self._targets[current_key])

    def _check(self, name: str, layer: HookedLayer, holder: str, module: nn.Module, args: Any, output: Any) -> None:
        """After the first pass through the module that holds an adapted layer: the hooks must have run."""
        if torch.compiler.is_compiling():
            return
        if not layer.reached and not layer.disable_adapters:
            raise RuntimeError(
                f"The adapter is attached to {name}, but {holder or 'the model'} ({type(module).__name__}) ran without "
                "calling that layer: it reads its weights instead, so the adapter silently does nothing. Choose other "
                "target_modules, or turn off the fused or sliced computation of the base."
            )
        if layer.reached and name in self._checks:
            self._checks.pop(name).remove()

    # --- saving and leaving ------------------------------------------------------------------------------------------

    def activate(self, adapter_names: list[str] | None) -> None:
        """Makes these adapters active, for a merge that names them; None leaves those that are.

        Raises:
            ValueError: There is no such adapter.
        """
        if adapter_names is None:
            return
        unknown = [name for name in adapter_names if name not in self.peft_config]
        if isinstance(adapter_names, str) or unknown:
            raise ValueError(f"adapter_names={adapter_names!r} must be a list of some of {list(self.peft_config)}.")
        self.set_adapter(list(adapter_names), inference_mode=True)

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        if merge:
            raise ValueError(self.cannot_merge)
        for check in self._checks.values():
            check.remove()
        self._checks.clear()
        for module in list(self.model.modules()):
            layer = module._modules.get(self.child)
            if isinstance(layer, HookedLayer):
                for handle in layer.handles:
                    handle.remove()
                del module._modules[self.child]
        super()._unload_and_optionally_merge(merge=False, **kwargs)  # modules_to_save, and PEFT's own marks
        return self.model
