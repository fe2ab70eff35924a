"""Learning rates of their own for some of the trained parameters: gates, prompts, a head."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from zerogate.errors import UserError


def scale_rates(optimizer: Optimizer, model: nn.Module, factors: dict[str, float]) -> None:
    """Split the optimiser's groups so that parameters with a word in their name learn at their multiple of the rate.

    Args:
        optimizer: fresh: it has taken no step, and no schedule knows it.
        model: names its parameters.
        factors: by word; where several fit, the last one's.

    Raises:
        UserError: a word that no trained parameter has in its name.
    """
    if not factors:
        return
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for word in factors:
        if not any(word in name for name in names.values()):
            parts = sorted({part for name in names.values() for part in name.split(".") if not part.isdigit()})
            raise UserError(
                f"train.rate_factors: no trained parameter has {word!r} in its name. Names are made of these words: "
                f"{', '.join(parts)}"
            )

    def factor(parameter: nn.Parameter) -> float:
        found = [value for word, value in factors.items() if word in names[parameter]]
        return found[-1] if found else 1.0

    split = []
    for group in optimizer.param_groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factor(parameter), []).append(parameter)
        split += [{**group, "params": found, "lr": group["lr"] * value} for value, found in by_factor.items()]
    # The first group's rate is what is reported: the recipe's own, where there is one.
    rate = max((group["lr"] for group in optimizer.param_groups), default=0.0)
    optimizer.param_groups[:] = sorted(split, key=lambda group: group["lr"] != rate)
