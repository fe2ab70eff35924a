"""The recipe of a Toolformer: tools, documents, how calls are proposed, what is trained and what is asked at the end.

base:      {name: pocket}
tools:     [calculator, calendar]
documents: {path: texts.jsonl, limit: 1000}
adapter:   {method: lora, r: 8}
train:     {steps: 300, batch_size: 32, learning_rate: 0.003}
output:    runs/toolform
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from zerogate.toolform.tasks import TaskName
from zerogate.training.recipe import BaseSection, Recipe, Section
from zerogate.training.recipe_file import parse_recipe, read_settings, validate


class SamplingSection(Section):
    """What differs from a tool's own settings (`zerogate.tools.tool.Sampling`).

    Attributes:
        threshold: tau_s.
        positions: k.
        calls: m.
        gain: tau_f.
    """

    threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    positions: PositiveInt | None = None
    calls: PositiveInt | None = None
    gain: float | None = None


class DocumentsSection(Section):
    """The texts to put calls into.

    Attributes:
        path: a file with a column `text` (and `date`), a folder of `.txt` files, a Hub data set, or the
            name of a world (`zerogate.toolform.worlds`).
        limit: take only so many.
    """

    path: str
    limit: PositiveInt | None = None


class ProposerSection(Section):
    """An adapter that proposes calls, for bases too small to follow the prompt that shows some.

    Attributes:
        demonstrations: a file whose column `text` has texts with calls and results, or the name of a world.
        limit: take only so many.
        adapter: its method, as in a training recipe.
        train: how, as in a training recipe.
    """

    demonstrations: str
    limit: PositiveInt | None = None
    adapter: dict[str, Any]
    train: dict[str, Any]


class Asked(Section):
    """What is asked at the end.

    Attributes:
        task: see `zerogate.toolform.tasks`.
        data: its file, where it has one.
        limit: ask only so many questions.
    """

    task: TaskName
    data: str | None = None
    limit: PositiveInt = 100


class ToolformRecipe(Section):
    """A whole Toolformer.

    Attributes:
        title: over the tables.
        base: the frozen model.
        tools: as `zerogate mcp --tools` names them.
        sampling: by tool, what differs from its own settings.
        documents: what calls are put into.
        proposer: an adapter that proposes calls; without it, a prompt shows how.
        seed, temperature: of the sampling.
        batch_size: calls sampled at a time.
        max_length: most tokens in a training sequence.
        adapter: what holds the skill.
        train: how it is trained.
        plain: texts that the adapter also learns as they were, without calls: `none` as in the paper, `copies` of
            those that have calls, or all `documents`. One that has only seen the texts with calls has not learned what
            comes where none is made.
        without_calls: also train an adapter on the same texts without their calls, each once, to compare with.
        evaluate: what is asked at the end.
        open_top_k: a call is begun where its opening is among so many likeliest continuations.
        most_calls: per answer.
        max_new_tokens: longest answer, calls included.
        output: the folder.
    """

    title: str = "Toolformer"
    base: BaseSection
    tools: Annotated[tuple[str, ...], Field(min_length=1)]
    sampling: dict[str, SamplingSection] = Field(default_factory=dict)
    documents: DocumentsSection
    proposer: ProposerSection | None = None
    seed: int = 0
    temperature: Annotated[float, Field(gt=0)] = 1.0
    batch_size: PositiveInt = 64
    max_length: Annotated[int, Field(ge=8)] = 1024
    adapter: dict[str, Any]
    train: dict[str, Any]
    plain: Literal["none", "copies", "documents"] = "none"
    without_calls: bool = True
    evaluate: tuple[Asked, ...] = ()
    open_top_k: PositiveInt = 10
    most_calls: PositiveInt = 1
    max_new_tokens: PositiveInt = 64
    output: str

    @model_validator(mode="after")
    def _trains(self) -> Self:
        self.training("adapter", Path(self.output))
        if self.proposer is not None:
            self.training("proposer", Path(self.output))
        return self

    def training(self, which: str, data: Path) -> Recipe:
        """The training recipe of the `proposer`, the `adapter` or the one `without-calls`; `data` is what it is said to
        learn from.

        Raises:
            UserError: what is wrong in it.
        """
        section = self.proposer if which == "proposer" else self
        assert section is not None
        settings = {
            "base": self.base.model_dump(exclude_none=True),
            "adapter": section.adapter,
            "data": {"path": str(data), "max_length": self.max_length},
            "train": section.train,
            "output": str(Path(self.output) / which),
        }
        return parse_recipe(settings, f"the recipe's {'proposer' if which == 'proposer' else 'own'} training")


def load_toolform(path: str | Path, overrides: list[str] | None = None) -> ToolformRecipe:
    """Read and check a recipe; `overrides` are `section.key=value`.

    Raises:
        UserError: no such file, broken YAML, unknown keys, wrong values.
    """
    return validate(ToolformRecipe, read_settings(path, ToolformRecipe, overrides), str(path))
