"""Load what a run on a task with labels has saved, on a freshly loaded base.

trained = load_trained("runs/vit/best", "runs/small-vit/base")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from zerogate.bases.adapted import attach, read_adapter
from zerogate.errors import UserError
from zerogate.training.problems.base import load_fast_tokenizer, load_image_processor, load_model
from zerogate.training.problems.base_to_novel import CLASSES_FILE, BaseToNovel
from zerogate.training.problems.image_classification import ImageClassification
from zerogate.training.problems.labelled import LabelledProblem
from zerogate.training.problems.question_answering import QuestionAnswering
from zerogate.training.problems.token_classification import TokenClassification
from zerogate.training.recipe import BaseSection

# By PEFT's name of the task, which an adapter's configuration has; pictures have none there.
_TASKS = {task.peft_task: task for task in (ImageClassification, QuestionAnswering, TokenClassification)}


class Trained(NamedTuple):
    """What a run has made, ready to be asked.

    Attributes:
        model: the base with the adapter and its head, in eval mode.
        processor: the base's tokenizer or image processor.
        task: the class of its task.
        folder: where it was saved.
        base: the base's name.
    """

    model: Any
    processor: Any
    task: type[LabelledProblem]
    folder: Path
    base: str


def load_trained(
    folder: str | Path, base: str | None = None, *, device: str | None = None, dtype: Any = None
) -> Trained:
    """A trained adapter with its head on a freshly loaded base, or a fully trained model.

    Args:
        folder: a saved adapter or fully trained model, or a run's folder.
        base: the base; None: the one that the adapter records.
        device: such as `cpu` or `cuda:0`; None: the first GPU, else the CPU.
        dtype: of the base's frozen weights, as in a recipe; what was trained is fp32.

    Raises:
        UserError: no adapter, one of a language model, or one that does not fit the base.
    """
    folder = Path(folder).expanduser()
    whole = next((place for place in (folder, folder / "best", folder / "last") if _is_whole(place)), None)
    if whole is not None:
        return _load_whole(whole, device)
    adapter = read_adapter(folder)
    task: Any = _reads_names(adapter.folder) or _TASKS.get(adapter.config.get("task_type"))
    if task is None:
        raise UserError(f"{folder} is a language model's adapter; zerogate.bases.load_adapted loads it")
    name = base or adapter.base
    if name is None:
        raise UserError(f"{folder} does not record which base it was made for; name it")
    labels_file = adapter.folder / "labels.json"
    labels = json.loads(labels_file.read_text(encoding="utf-8")) if labels_file.is_file() else None
    section = BaseSection(name=name, dtype=dtype)
    model = load_model(task.auto_class, section, labels, device, fresh_head=task is not BaseToNovel)
    adapted = attach(model, {"trained": adapter}, name)
    return Trained(adapted.eval(), _processor(task, name), task, adapter.folder, name)


def _reads_names(folder: Path) -> type[BaseToNovel] | None:
    return BaseToNovel if (folder / CLASSES_FILE).is_file() else None


def _is_whole(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def _load_whole(folder: Path, device: str | None) -> Trained:
    made_by = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    ends = {task.auto_class.removeprefix("AutoModel"): task for task in _TASKS.values()}
    task: Any = _reads_names(folder) or next((t for end, t in ends.items() if made_by[0].endswith(end)), None)
    if task is None:
        raise UserError(f"{folder} holds a {made_by[0] or 'model'}, which has no head for labels")
    model = getattr(transformers, task.auto_class).from_pretrained(folder, use_safetensors=True)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).requires_grad_(False)
    return Trained(model.eval(), _processor(task, str(folder)), task, folder, str(folder))


def _processor(task: Any, name: str) -> Any:
    return load_image_processor(name) if task in (ImageClassification, BaseToNovel) else load_fast_tokenizer(name)
