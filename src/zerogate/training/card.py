"""The card of a saved adapter: what it is, what it learned from, how well, and the three lines that use it."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from zerogate.training.problems.problem import figure_text


@dataclass(frozen=True)
class CardFacts:
    """What a card tells.

    Attributes:
        base: name of the base.
        method: name of the method.
        summary: the method in words.
        settings: the method's settings from the recipe.
        template: how records were worded.
        data: the data in words, one line each.
        trained: trainable parameters; `total`: all of the model's.
        total: all parameters, the trained ones included.
        step: optimiser steps taken; `steps`: planned.
        steps: optimiser steps planned.
        batch_size: sequences per step.
        learning_rate: peak rate.
        base_loss: held-out loss before training, if measured.
        loss: held-out loss now, if measured.
        folder: the adapter's folder.
        figures: held-out figures besides the loss: shares from 0 to 1, and margins in logits.
        pipeline: transformers' name of what it does.
        versions: name and version of what made it.
    """

    base: str
    method: str
    summary: str
    settings: dict[str, Any]
    template: str
    data: list[str]
    trained: int
    total: int
    step: int
    steps: int
    batch_size: int
    learning_rate: float
    base_loss: float | None
    loss: float | None
    folder: str
    versions: dict[str, str]
    figures: dict[str, float] = field(default_factory=dict)
    pipeline: str = "text-generation"


def render_card(facts: CardFacts) -> str:
    """The card as Markdown with the Hub's metadata on top."""
    metadata = {
        "base_model": facts.base,
        "library_name": "transformers" if facts.method == "full" else "peft",
        "tags": ["zerogate", facts.method],
        "pipeline_tag": facts.pipeline,
    }
    if facts.template:
        # Chat and generation read this, so that a question is worded as the training records were.
        metadata["zerogate_template"] = facts.template
    settings = ", ".join(f"{key} {value}" for key, value in facts.settings.items() if key != "method") or "defaults"
    rows = [
        ("base", f"`{facts.base}`"),
        ("method", f"{facts.summary} ({settings})"),
        ("trained parameters", f"{facts.trained:,} of {facts.total:,} ({facts.trained / facts.total:.3%})"),
        ("data", "; ".join(facts.data)),
        *([("template", facts.template)] if facts.template else []),
        (
            "training",
            f"step {facts.step} of {facts.steps}, batch {facts.batch_size}, peak learning rate "
            f"{facts.learning_rate:.3g}",
        ),
    ]
    if facts.base_loss is not None:
        rows.append(("held-out loss of the base", f"{facts.base_loss:.4f} nats per token"))
    if facts.loss is not None:
        per = "token" if facts.pipeline == "text-generation" else "label"
        rows.append(("held-out loss with this", f"{facts.loss:.4f} nats per {per}"))
    rows += [(f"held-out {name.replace('_', ' ')}", figure_text(name, value)) for name, value in facts.figures.items()]
    rows.append(("made with", ", ".join(f"{name} {version}" for name, version in facts.versions.items())))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# {facts.method} on {facts.base}\n\n| | "
        f"|\n|---|---|\n{table}\n\n"
        f"## Use it\n\n```python\n{_usage(facts)}\n```\n" + f"\nor `{_command(facts)}`.\n"
    )


def _usage(facts: CardFacts) -> str:
    if facts.pipeline != "text-generation":
        return (
            "from zerogate.training.problems.trained import load_trained\n"
            f'trained = load_trained("{facts.folder}", "{facts.base}")\n'
            "trained.model, trained.processor"
        )
    if facts.method == "full":
        return (
            "from zerogate.bases import load_base\n"
            f'model, tokenizer = load_base("{facts.folder}")\n'
            'model.generate(**tokenizer("...", return_tensors="pt"), max_new_tokens=64)'
        )
    return (
        "from zerogate.bases import load_adapted\n"
        f'model, tokenizer = load_adapted("{facts.base}", {{"default": "{facts.folder}"}})\n'
        'model.generate(**tokenizer("...", return_tensors="pt"), max_new_tokens=64)'
    )


def _command(facts: CardFacts) -> str:
    return next_command(facts.method, facts.base, facts.folder, facts.pipeline)


def next_command(method: str, base: str, folder: str, pipeline: str = "text-generation") -> str:
    """What to type to ask the result."""
    if pipeline != "text-generation":
        return f"zerogate predict {folder}"
    if method == "full":
        return f"zerogate chat --base {folder}"
    return f"zerogate chat --base {base} --adapter {folder}"
