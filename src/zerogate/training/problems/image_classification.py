"""Image classification: any model of transformers' `AutoModelForImageClassification`; measured by accuracy."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zerogate.errors import UserError
from zerogate.training.problems.base import load_image_processor
from zerogate.training.problems.held_out import leak_line, read_parts
from zerogate.training.problems.image_files import Picture, check_pictures, decode, read_pictures
from zerogate.training.problems.labelled import Example, LabelledData, LabelledProblem, Part
from zerogate.training.problems.problem import Merit
from zerogate.training.problems.sections import ImageSection
from zerogate.training.problems.structured_images import read_structured


class Pictures(Dataset[Example]):
    """Pictures as the base wants them, made when they are asked for: decoded they would fill the memory."""

    def __init__(self, pictures: list[Picture], labels: list[str], processor: Any) -> None:
        self.pictures, self.processor = pictures, processor
        self.index = {label: index for index, label in enumerate(labels)}

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> Example:
        picture = self.pictures[row]
        pixels_CHW = self.processor(decode(picture), return_tensors="pt")["pixel_values"][0]
        return {"row": row + 1, "pixel_values": pixels_CHW, "labels": self.index[picture.label]}


class ImageClassification(LabelledProblem):
    """Which class is this picture of?"""

    peft_task = None
    pipeline = "image-classification"
    merit = Merit("eval_accuracy", higher_is_better=True)
    auto_class = "AutoModelForImageClassification"
    shown = ("accuracy",)

    @cached_property
    def elsewhere(self) -> list[str]:
        """Pictures that were left out: they do not lie in a class's own folder."""
        return []

    @cached_property
    def pictures(self) -> tuple[list[Picture], list[Picture]]:
        """What to learn from and what to measure on.

        Raises:
            UserError: files that cannot be read, or classes that training does not have.
        """
        section: ImageSection = self.recipe.data  # type: ignore[assignment]
        train, held_out = read_parts(section, partial(read_labelled, section, elsewhere=self.elsewhere))
        known = {picture.label for picture in train}
        if strange := next((picture for picture in held_out if picture.label not in known), None):
            raise UserError(f"held out is {strange.name} of the class {strange.label!r}, which training does not have")
        return train, held_out

    def label_names(self) -> list[str]:
        """The classes by name; numbers by size."""
        names = {picture.label for picture in self.pictures[0]}
        return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))

    def load_processor(self) -> Any:
        """The base's image processor."""
        return load_image_processor(self.recipe.base.name)

    def load_data(self, processor: Any) -> LabelledData:
        """Read and check; pictures are decoded again when they are needed."""
        labels = self.label_names()
        check_pictures(picture for part in self.pictures for picture in part)
        train, held_out = (
            Part(Pictures(pictures, labels, processor), [1] * len(pictures), pictures) for pictures in self.pictures
        )
        told = [f"{len(train):,} training pictures of {len(labels)} classes"]
        if len(held_out):
            keys = ([picture.data for picture in part.records] for part in (train, held_out))
            told.append(f"{len(held_out):,} held-out pictures; {leak_line(*keys)}")
        told += elsewhere_lines(self.elsewhere)
        return LabelledData(train, held_out if len(held_out) else None, tuple(told))

    def collate(self, examples: list[Example]) -> dict[str, Tensor]:
        """Pictures [B, C, H, W] and classes [B]."""
        return {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "labels": torch.tensor([example["labels"] for example in examples]),
            "rows": torch.tensor([example["row"] for example in examples]),
        }

    def logits(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """[B, classes]."""
        return model(pixel_values=inputs["pixel_values"]).logits  # type: ignore[no-any-return]

    def predict(self, logits: Tensor, inputs: dict[str, Tensor], examples: list[Example]) -> list[int]:
        """First choices."""
        return logits.argmax(-1).tolist()  # type: ignore[no-any-return]

    def score(self, predictions: list[int], part: Part) -> dict[str, float]:
        """`accuracy`: the share that is right."""
        index = {label: number for number, label in enumerate(self.label_names())}
        right = sum(said == index[p.label] for said, p in zip(predictions, part.records, strict=True))
        return {"accuracy": right / len(predictions)}


def read_labelled(
    section: ImageSection, path: str, split: str | None, elsewhere: list[str] | None = None
) -> list[Picture]:
    """Pictures with their classes, as the section says; `elsewhere` as in `read_pictures`.

    Raises:
        UserError: files that cannot be read.
    """
    if section.labels == "folder":
        return read_pictures(path, split, elsewhere)
    return read_structured(section.labels, path, split)


def elsewhere_lines(names: list[str]) -> list[str]:
    """What is told of pictures that were left out."""
    return [f"{len(names):,} pictures that lie in no class's own folder left out, such as {names[0]}"] if names else []
