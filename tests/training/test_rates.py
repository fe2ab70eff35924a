"""Learning rates of their own for some parameters: the optimiser's groups, and what a run with them does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from zerogate.errors import UserError
from zerogate.training.callbacks import read_metrics
from zerogate.training.rates import scale_rates
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import Outcome, train

Settings = Callable[..., dict[str, Any]]


def run(settings: dict[str, Any]) -> Outcome:
    return train(parse_recipe(settings), console=Console(quiet=True))


def trained(outcome: Outcome) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in outcome.model.named_parameters() if p.requires_grad}


def test_groups_keep_their_settings_and_the_plain_rate_comes_first() -> None:
    model = nn.ModuleDict({"gate": nn.Linear(2, 2), "prompt": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    model["head"].bias.requires_grad_(False)
    weights = [model[name].weight for name in ("gate", "prompt", "head")]
    groups = [{"params": weights, "weight_decay": 0.5}, {"params": [model["gate"].bias, model["prompt"].bias]}]
    optimizer = torch.optim.AdamW(groups, lr=0.2, weight_decay=0.0)
    scale_rates(optimizer, model, {"gate": 0.1, "prompt": 2.0, "prompt.bias": 3.0})
    found = [(g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in optimizer.param_groups]
    expected = [
        (0.2, 0.5, model["head"].weight),
        (0.02, 0.5, model["gate"].weight),
        (0.4, 0.5, model["prompt"].weight),
        (0.02, 0.0, model["gate"].bias),
        (0.6, 0.0, model["prompt"].bias),
    ]
    assert found == [(pytest.approx(rate), decay, [id(parameter)]) for rate, decay, parameter in expected]


def test_a_run_with_them(settings: Settings) -> None:
    plain = trained(run(settings(train__steps=3, output=settings()["output"] + "-plain")))
    outcome = run(settings(train__steps=3, train__rate_factors={"prompt": 1e-9}))
    slow = trained(outcome)
    start = trained(run(settings(train__steps=1, train__warmup_steps=1, output=settings()["output"] + "-start")))
    for name in plain:
        if "gate" in name:
            assert slow[name].abs().max() > 0
        else:  # a first step of the warm-up has the rate 0
            assert torch.allclose(slow[name], start[name], atol=1e-6) and not torch.allclose(plain[name], start[name])
    rates = [m["learning_rate"] for m in read_metrics(outcome.folder / "metrics.jsonl") if "learning_rate" in m]
    assert max(rates) == pytest.approx(0.05)


def test_a_word_that_no_parameter_has(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"no trained parameter has 'gates' in its name.*gate, .*prompt"):
        run(settings(train__rate_factors={"gates": 0.5}))
