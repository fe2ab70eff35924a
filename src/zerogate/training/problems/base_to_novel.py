"""Base-to-novel: a model of pictures and texts (CLIP) learns the first half of the classes from some shots of each, and
is asked about both halves; the second it knows by their names alone (CoOp and its successors; LLaMA-Adapter, table 11).

Classes are in the order of their names. Base pictures are told apart among base classes, novel ones among novel ones;
their accuracies' harmonic mean is the figure that counts. What is best is said by the base classes: nothing is chosen
by the novel ones.
"""

from __future__ import annotations

import json
import math
import random
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed

from zerogate.errors import UserError
from zerogate.training.context import load_text_tokenizer, tokenise
from zerogate.training.problems.base import empty_model, load_image_processor, load_model
from zerogate.training.problems.held_out import leak_line, read_parts
from zerogate.training.problems.image_classification import Pictures, elsewhere_lines, read_labelled
from zerogate.training.problems.image_files import Picture, check_pictures
from zerogate.training.problems.labelled import Example, LabelledData, LabelledProblem, Part
from zerogate.training.problems.problem import Merit
from zerogate.training.problems.sections import ClassNamesSection

CLASSES_FILE = "classes.json"


class BaseToNovel(LabelledProblem):
    """Which class's text goes with this picture?"""

    peft_task = None
    pipeline = "zero-shot-image-classification"
    merit = Merit("eval_base", higher_is_better=True)
    auto_class = "AutoModelForZeroShotImageClassification"
    shown = ("harmonic mean", "base", "novel")

    @property
    def section(self) -> ClassNamesSection:
        """The recipe's data."""
        return self.recipe.data  # type: ignore[return-value]

    @cached_property
    def halves(self) -> tuple[list[str], list[str]]:
        """The base classes and the novel ones."""
        names = sorted({picture.label for part in self.parts for picture in part})
        if len(names) < 4:
            raise UserError(f"{self.section.path} has {len(names)} classes; two halves need at least four")
        middle = math.ceil(len(names) / 2)
        return names[:middle], names[middle:]

    @cached_property
    def elsewhere(self) -> list[str]:
        """Pictures that were left out: they do not lie in a class's own folder."""
        return []

    @cached_property
    def parts(self) -> tuple[list[Picture], list[Picture]]:
        """All pictures to learn from, and all to measure on."""
        return read_parts(self.section, partial(read_labelled, self.section, elsewhere=self.elsewhere))

    @cached_property
    def shots(self) -> list[Picture]:
        """What is learned: a few pictures of each base class."""
        rng, section = random.Random(self.section.split_seed), self.section
        chosen = []
        for name in self.halves[0]:
            found = [picture for picture in self.parts[0] if picture.label == name]
            if len(found) < section.shots:
                raise UserError(
                    f"data.shots={section.shots}, but the class {name!r} has {len(found)} pictures to learn from"
                )
            chosen += rng.sample(found, section.shots)
        return chosen

    @cached_property
    def texts(self) -> dict[str, Tensor]:
        """Every class's text, base classes first: `input_ids` and `attention_mask` [N, T]."""
        template = self.section.template
        context = self.recipe.adapter.get("context", "a photo of a")
        if self.recipe.adapter["method"] in ("coop", "cocoop", "maple") and not template.startswith(f"{context} "):
            raise UserError(
                f"data.template {template!r} does not begin with adapter.context {context!r}, the words that are "
                "learned anew; set one of them"
            )
        if "{}" not in template:
            raise UserError(f"data.template {template!r} has no {{}} for the class's name")
        names = [name.replace("_", " ") for half in self.halves for name in half]
        return tokenise(load_text_tokenizer(self.recipe.base.name), [template.replace("{}", n) for n in names])

    def label_names(self) -> None:
        """None: the classes are texts."""
        return None

    def load_processor(self) -> Any:
        """The base's image processor."""
        return load_image_processor(self.recipe.base.name)

    def load_base(self, whole: bool, device: str | None) -> tuple[PreTrainedModel, Any]:
        """The frozen model, which needs no head."""
        set_seed(self.recipe.train.seed)
        base = self.recipe.base.model_copy(update={"dtype": "float32"} if whole else {})
        return load_model(self.auto_class, base, None, device, fresh_head=False), self.load_processor()

    def empty_base(self) -> PreTrainedModel:
        """The model without content."""
        return empty_model(self.auto_class, self.recipe.base.name, None)

    def heads(self, model: PreTrainedModel) -> list[str]:
        """None are fresh."""
        return []

    def load_data(self, processor: Any) -> LabelledData:
        """Read and check; pictures are decoded again when they are needed."""
        base, novel = self.halves
        assert self.texts  # a bad template is told before training
        check_pictures([*self.shots, *self.parts[1]])

        def part(pictures: list[Picture]) -> Part:
            return Part(Pictures(pictures, base + novel, processor), [1] * len(pictures), pictures)

        train, held_out = part(self.shots), part(self.parts[1])
        told = [f"{len(train):,} training pictures of {len(base)} base classes; {len(novel)} novel classes"]
        if len(held_out):
            keys = ([picture.data for picture in one.records] for one in (train, held_out))
            told.append(f"{len(held_out):,} held-out pictures; {leak_line(*keys)}")
        told += elsewhere_lines(self.elsewhere)
        return LabelledData(train, held_out if len(held_out) else None, tuple(told))

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Pictures [B, C, H, W], classes [B], and whether they are novel [B]."""
        labels = torch.tensor([example["labels"] for example in examples])
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "labels": labels,
            "novel": labels >= len(self.halves[0]),
            "rows": torch.tensor([example["row"] for example in examples]),
        }

    def logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """[B, classes]: those of the other half are -inf. Where no picture is novel, base classes alone are read."""
        pixels, novel_B = inputs["pixel_values"], inputs["novel"]
        count = len(self.halves[0])
        read = slice(None) if novel_B.any() else slice(count)
        texts = {name: tensor[read].to(pixels.device) for name, tensor in self.texts.items()}
        logits_BN: Tensor = model(pixel_values=pixels, **texts).logits_per_image
        novel_N = torch.arange(logits_BN.shape[1], device=pixels.device) >= count
        return logits_BN.float().masked_fill(novel_B[:, None] != novel_N, -torch.inf)

    def predict(self, logits: Tensor, inputs: dict[str, Tensor], examples: list[Example]) -> list[int]:
        """First choices."""
        return logits.argmax(-1).tolist()  # type: ignore[no-any-return]

    def score(self, predictions: list[int], part: Part) -> dict[str, float]:
        """`base` and `novel`, the shares that are right (nan where there are no such pictures), and `harmonic mean`."""
        base, novel = self.halves
        names = base + novel
        right: dict[bool, list[bool]] = {False: [], True: []}
        for said, picture in zip(predictions, part.records, strict=True):
            right[picture.label in novel].append(names[said] == picture.label)
        seen, unseen = (sum(found) / len(found) if found else math.nan for found in right.values())
        mean = 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0
        return {"harmonic mean": mean, "base": seen, "novel": unseen}

    def save_extras(self, folder: Path) -> None:
        """`classes.json`: the two halves and the texts' template."""
        base, novel = self.halves
        content = {"base": base, "novel": novel, "template": self.section.template}
        (folder / CLASSES_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
