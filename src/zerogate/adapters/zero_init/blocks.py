"""Which attention modules of a model a config means."""

from __future__ import annotations

from typing import Any

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from ..layouts import Block, find_blocks, unknown_family
from .config import ZeroInitConfig


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
