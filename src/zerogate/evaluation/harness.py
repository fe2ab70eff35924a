"""lm-evaluation-harness on a model of ours, adapters included: `pip install 'zerogate[eval]'`.

    found = run_harness(model, tokenizer, ["my_task"], include_path=Path("tasks"))
    print(found["results"]["my_task"])

The harness scores the model that is loaded here, with the adapter that is active, through its own `HFLM`. Its tasks are
its own or YAML files in a folder of the user's; many of its own fetch their data from the Hub.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.errors import UserError

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 0
"""For the harness's own draws, such as few-shot examples."""


def find_harness_tasks(tasks: Sequence[str], include_path: Path | None = None) -> TaskManager:
    """What knows the harness's tasks, once these are known to be among them. It reads thousands of files.

    Raises:
        UserError: lm-eval is not installed, no such folder, or an unknown task (with the nearest).
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("--harness needs lm-eval, which is not installed: pip install 'zerogate[eval]'")
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"the folder of tasks {include_path} does not exist")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    for name in tasks:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"did you mean {near[0]}?" if near else "`lm-eval ls tasks` lists what it knows"
            raise UserError(f"lm-eval has no task {name!r}; {hint} (--include-path adds tasks of your own)")
    return manager


def run_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    include_path: Path | None = None,
    manager: TaskManager | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    num_fewshot: int | None = None,
) -> dict[str, Any]:
    """Evaluate tasks of the harness.

    Args:
        model: base or adapted model, in eval mode.
        tokenizer: its tokenizer.
        tasks: names of tasks or groups.
        include_path: a folder with task files of the user's own.
        manager: from `find_harness_tasks`, to look for the tasks only once.
        limit: only so many documents of each task.
        batch_size: documents at a time.
        num_fewshot: examples before each question; the task's own number by default.

    Returns:
        `results` (metrics by task), `n-samples`, `versions` of the tasks, `seed` and `lm_eval` (its version).

    Raises:
        UserError: as `find_harness_tasks`.
    """
    manager = manager or find_harness_tasks(tasks, include_path)
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    found = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=list(tasks),
        task_manager=manager,
        limit=limit,
        num_fewshot=num_fewshot,
        random_seed=SEED,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        fewshot_random_seed=SEED,
        log_samples=False,
    )
    assert found is not None, "only a process that is not the first of several gets nothing back"
    return {key: found[key] for key in ("results", "n-samples", "versions") if key in found} | {
        "seed": SEED,
        "lm_eval": version("lm_eval"),
    }
