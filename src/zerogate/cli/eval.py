"""`zerogate eval`: ask a model the questions of test sets, score its answers. The work is in `zerogate.evaluation`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zerogate.cli import options
from zerogate.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.data.leaks import LeakCheck
    from zerogate.evaluation.evaluate import TaskResult
    from zerogate.evaluation.tasks import Question, Task
    from zerogate.inference import Engine

EPILOG = """[bold]Examples[/]

zerogate eval --task gsm8k --data gsm8k_test.jsonl --model runs/base

zerogate eval -t addsub -d AddSub_test.json -t svamp -d SVAMP_test.json -m pocket -a runs/demo

zerogate eval -t svamp -d SVAMP_test.json -a runs/math --train-data asdiv.json --allow-leak svamp

zerogate eval -t easy-vqa -d "easy_vqa_train.tar:train[90%:]" -a runs/seeing --shuffle-images

zerogate eval -t gsm8k -d gsm8k_test.jsonl -a runs/math --workers 4

zerogate eval --harness my_task --include-path tasks/ -m pocket -a runs/demo

Stopped? The same command goes on where it stopped.
"""


def eval(
    task: Annotated[
        list[str] | None, typer.Option("--task", "-t", help="A task, such as gsm8k; may be given several times.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            "-d",
            metavar="FILE",
            help="Its test set; one for each --task. Data sets with images also take PATH:SPLIT.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            "--base",
            "-b",
            metavar="NAME",
            help="The base: folder, Hub id or pocket. By default the one that the adapter was made for, else pocket.",
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", "-a", metavar="FOLDER", help="An adapter's folder, or a run's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where predictions and results go. Default: runs/eval/NAME.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions at a time; it changes no answer.")] = 8,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Width of the beam search; 1 is greedy. Default: the task's, mostly 4.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens. Default: the task's, 256 for math, else 32.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of each task.")] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Show no images to an adapter that takes them: the same model, unseeing.")
    ] = False,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="A folder or archive of the test set's images, if they are not where its data is."
        ),
    ] = None,
    shuffle_images: Annotated[
        bool, typer.Option("--shuffle-images", help="Show each question the images of another one.")
    ] = False,
    template: options.Template = "auto",
    train_data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Look for the questions in this training file, too; several times."),
    ] = None,
    allow_leak: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Go on although questions of this task stand in the training data."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew instead of going on.")] = False,
    skip_long: Annotated[
        bool, typer.Option("--skip-long", help="Count questions without room for an answer as unanswered.")
    ] = False,
    workers: options.Workers = 1,
    ray_address: options.RayAddress = None,
    harness: Annotated[
        str | None, typer.Option(metavar="TASKS", help="Also, or only: lm-evaluation-harness's tasks, with commas.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A folder of task files for --harness.")
    ] = None,
    dtype: options.Dtype = "float32",
    device: options.Device = None,
    quantization: options.Quantization = None,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Ask a model the questions of test sets and score its answers.

    Each task is scored by two rules side by side: the authors' (compat) and
    ours (strict). Every prediction is saved; without --adapter the base alone
    answers. Test questions that stand in the training data stop the run.
    """
    if not task and harness is None:
        raise UserError("name something to evaluate: --task gsm8k --data FILE, or --harness TASKS")
    if blind and shuffle_images:
        raise UserError("--blind shows no images and --shuffle-images those of other questions: choose one")
    if len(task or []) != len(data or []):
        raise UserError(f"each --task wants its --data: there are {len(task or [])} tasks and {len(data or [])} files")
    if blind and images is not None:
        raise UserError("--blind shows no images, so --images has nothing to do: leave one of them out")
    if images is not None and len(task or []) > 1:
        raise UserError("--images are those of one test set: evaluate one --task at a time with it")
    many = options.many(workers, ray_address)
    if many and harness is not None:
        raise UserError("--workers and --ray-address are for --task; run --harness by itself")
    from rich.console import Console

    from zerogate.cli.eval_leaks import check_leaks
    from zerogate.evaluation.tasks import find_task, read_questions

    errors = Console(stderr=True, highlight=False)
    tasks = [find_task(name) for name in task or []]
    if twice := {found.name for found in tasks if tasks.count(found) > 1}:
        raise UserError(f"the task {', '.join(sorted(twice))} is named twice; evaluate one file of it at a time")
    allowed = {find_task(name).name for name in allow_leak or []}
    adapters = options.named_adapters([str(adapter)] if adapter else None)
    look = not blind and _sees(adapters)
    notes: dict[str, list[str]] = {found.name: [] for found in tasks}
    sets = [
        read_questions(found, file, limit, images=images, use_images=look, told=notes[found.name].append)
        for found, file in zip(tasks, data or [], strict=True)
    ]
    for name, lines in notes.items():
        for line in lines:
            errors.print(f"{name}: {line}.", style="yellow", markup=False)
    names = [part.strip() for part in (harness or "").split(",") if part.strip()]
    manager = None
    if harness is not None:
        from zerogate.evaluation.harness import find_harness_tasks, run_harness

        manager = find_harness_tasks(names, include_path)
    runs = [*adapters.values(), *([Path(model)] if model else [])]
    leaks = check_leaks(tasks, sets, runs, train_data or [], allowed, look, errors)

    engine, base = options.load_engine(model, adapters, dtype, device, quantization, allow_pickle, weights=not many)
    name = next(iter(adapters), "".join(letter if letter.isalnum() else "_" for letter in Path(base).name))
    folder = out or Path("runs") / "eval" / name
    folder.mkdir(parents=True, exist_ok=True)
    models = {"base": base, "adapter": str(adapter) if adapter else None, "dtype": dtype}
    settings: dict[str, Any] = {
        "template": engine.template_for() if template == "auto" else template,
        "batch_size": batch_size, "num_beams": num_beams, "max_new_tokens": max_new_tokens,
        "images": "none" if blind else "other" if shuffle_images else "own",
        "overwrite": overwrite, "skip_long": skip_long,
        "models": models,
    }  # fmt: skip
    with ExitStack() as stack:
        if many:
            from zerogate.evaluation.responses import answering, questions_of
            from zerogate.inference.cluster import from_anywhere
            from zerogate.inference.workers import Workers

            loading = {"dtype": dtype, "quantization": quantization, "allow_pickle": allow_pickle}
            folders = {name: path.resolve() for name, path in adapters.items()}
            load = partial(answering, from_anywhere(base), folders, loading)
            started = Workers(load, workers, address=ray_address, device=device, name=questions_of, told=errors.print)
            settings["spread"] = stack.enter_context(started).map
        results = [
            _ask(engine, found, questions, folder / f"{found.name}.jsonl", settings, errors)
            for found, questions in zip(tasks, sets, strict=True)
        ]
    report: dict[str, Any] = _report(results, leaks, notes, data or [], models, adapter, limit)
    if harness is not None:
        report["harness"] = run_harness(
            engine.model, engine.tokenizer, names, manager=manager, limit=limit, batch_size=batch_size
        )
    from zerogate.cli.eval_tables import show
    from zerogate.evaluation.write import with_earlier, write_results

    file = folder / "results.json"
    whole = report if overwrite else with_earlier(file, report)
    if whole is None:
        errors.print(f"[yellow]{file} was of another model, limit, seed or version: it is replaced.[/]")
    write_results(file, whole or report)
    show(results, leaks, report.get("harness"))
    errors.print(f"Predictions and results.json are in {folder}.")


def _sees(adapters: dict[str, Path]) -> bool:
    """Whether an adapter was trained with images, by its configuration alone."""
    from zerogate.bases.adapted import read_adapter

    return any(read_adapter(folder).config.get("image_layers") is not None for folder in adapters.values())


def _ask(
    engine: Engine, task: Task, questions: list[Question], file: Path, settings: dict[str, Any], errors: Console
) -> TaskResult:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from zerogate.evaluation.evaluate import evaluate_task

    if any(question.images or question.left_out for question in questions) and not engine.encoders.seeing:
        errors.print(f"[yellow]{task.name}: this model takes no images: its questions are asked without them.[/]")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        shown = bar.add_task(task.name, total=None)
        try:
            return evaluate_task(
                engine.model, engine.tokenizer, task, questions, predictions=file, encoders=engine.encoders, **settings,
                progress=lambda done, total: bar.update(shown, completed=done, total=total),
            )  # fmt: skip
        except KeyboardInterrupt:
            errors.print(f"Stopped. The rows in {file} are whole; the same command goes on from there.")
            raise


def _report(
    results: list[TaskResult],
    leaks: dict[str, LeakCheck],
    notes: dict[str, list[str]],
    files: list[Path],
    models: dict[str, Any],
    adapter: Path | None,
    limit: int | None,
) -> dict[str, Any]:
    """What `results.json` holds: accuracies, and all it takes to get them again."""
    from zerogate.evaluation.accuracy import Score
    from zerogate.evaluation.evaluate import mean_accuracy
    from zerogate.training.run_folder import versions

    tasks = {
        result.task: result.score.as_dict()
        | {"data": str(file), "decoding": result.decoding, "predictions": f"{result.task}.jsonl"}
        | _leaked(leaks.get(result.task))
        | ({"notes": notes[result.task]} if notes[result.task] else {})
        for result, file in zip(results, files, strict=True)
    }
    report: dict[str, Any] = {"models": models, "limit": limit, "tasks": tasks}
    judged = [result for result in results if isinstance(result.score, Score)]
    if judged:
        report["mean"] = dict(zip(("compat", "strict"), mean_accuracy(judged), strict=True))
    # Beam search draws nothing; what chance there was, was in the training.
    return report | {"seeds": {"decoding": None, "training": _training_seed(adapter)}, "versions": versions()}


def _leaked(check: LeakCheck | None) -> dict[str, Any]:
    """How many questions stand in the training data; None where they were not looked for."""
    if check is None:
        return {"near_duplicates": None}
    found = {"near_duplicates": len(check.leaks), "word_for_word": len(check.word_for_word)}
    return found | ({"not_looked_for": check.left_out} if check.left_out else {})


def _training_seed(adapter: Path | None) -> int | None:
    import yaml

    from zerogate.data.leaks import run_recipe

    file = run_recipe(adapter.expanduser()) if adapter is not None else None
    recipe = yaml.safe_load(file.read_text(encoding="utf-8")) if file is not None else None
    train = recipe.get("train") if isinstance(recipe, dict) else None
    return train.get("seed") if isinstance(train, dict) else None
