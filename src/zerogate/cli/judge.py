"""`zerogate judge`: have a model say whose answers are better. The work is in `zerogate.judging`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zerogate.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.judging.cost import Prices
    from zerogate.judging.items import Asking
    from zerogate.judging.run import Run

EPILOG = """[bold]Examples[/]

zerogate judge mine.jsonl theirs.jsonl --questions vicuna80.jsonl --url http://127.0.0.1:8000/v1 --model judge

zerogate judge mine.jsonl theirs.jsonl -q vicuna80.jsonl --url https://api.openai.com/v1 -m gpt-4o-mini --dry-run

zerogate judge --single mine.jsonl -q vicuna80.jsonl --url http://127.0.0.1:8000/v1 -m judge

zerogate judge --answer fox --answer base -q mine.jsonl --url http://127.0.0.1:8000/v1 --out answers

zerogate judge --reviews review_bard_vicuna-13b.jsonl

zerogate judge --agreement runs/judge runs/other-judge
"""

_TO_ASK = "Asking an endpoint"
_LIMITS = "Limits"


def judge(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]FILE...", help="Answers, one file for each model. Or reviews, or two results."),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Rate each answer from 1 to 10 instead of comparing.")
    ] = False,
    reviews: Annotated[
        bool, typer.Option("--reviews", help="The files are saved reviews with two scores: recompute their totals.")
    ] = False,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="The two files are results (or reviews): how far do both judges agree?")
    ] = False,
    answer: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Judge nothing: have this model at --url answer the questions, into --out."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions", "-q", metavar="FILE", help="What was asked. Answers of zerogate tell it themselves."
        ),
    ] = None,
    answers: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE", help="Whose answers --reviews and --agreement are about, by their ids."),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Judge only what every file answers, instead of refusing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="For judgements, report and pictures: runs/judge."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="OPENAI_BASE_URL", help="An OpenAI-compatible endpoint, with its /v1.", rich_help_panel=_TO_ASK
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The judge's name there.", rich_help_panel=_TO_ASK)
    ] = None,
    key_variable: Annotated[
        str,
        typer.Option("--key-env", metavar="NAME", help="Variable with the API key, if any.", rich_help_panel=_TO_ASK),
    ] = "OPENAI_API_KEY",
    criteria: Annotated[
        str, typer.Option(help="What counts most, told to the judge: 'Is it polite?'", rich_help_panel=_TO_ASK)
    ] = "",
    temperature: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CATEGORY=]NUMBER",
            help="May be given several times; none sends none. By default 0 for judging, by category for answering.",
            rich_help_panel=_TO_ASK,
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=0, help="Longest reply; 0 leaves it to the endpoint.", rich_help_panel=_TO_ASK)
    ] = 1024,
    extra: Annotated[
        str, typer.Option(metavar="JSON", help="More fields of each request: '{\"seed\": 1}'.", rich_help_panel=_TO_ASK)
    ] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.", rich_help_panel=_LIMITS)] = 8,
    per_minute: Annotated[
        float | None, typer.Option(min=0.01, help="Requests begun in a minute.", rich_help_panel=_LIMITS)
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a reply.", rich_help_panel=_LIMITS)] = 120.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Tries after 429, 5xx, timeouts, cut lines.", rich_help_panel=_LIMITS)
    ] = 6,
    price_in: Annotated[
        float | None, typer.Option(min=0, help="Money per million tokens sent.", rich_help_panel=_LIMITS)
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(min=0, help="Money per million tokens received.", rich_help_panel=_LIMITS)
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Take no reply from other runs, and keep none for them.")
    ] = False,
    retry_unparsed: Annotated[
        bool, typer.Option("--retry-unparsed", help="Ask again where an earlier reply held no verdict.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and ask nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask without confirming the estimate first.")] = False,
) -> None:
    """Have a model judge answers: which of two is better, or how good each is.

    Each two files are compared on every question in both orders, so 80 questions
    are 160 requests, and a win counts only if it is one in both. First everything
    is checked and the cost is estimated; then replies are written as they come.
    Stopped, the same command goes on, and nothing is asked twice. At the end stands
    a report (Markdown, JSON, a picture) by category, with what the place did.
    """
    modes = [
        name
        for name, on in {"--single": single, "--reviews": reviews, "--agreement": agreement, "--answer": answer}.items()
        if on
    ]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} are different things to do; choose one")
    if not files and not answer:
        raise UserError("name files to judge: zerogate judge mine.jsonl theirs.jsonl; zerogate judge --help has more")
    from rich.console import Console

    from zerogate.cli.judge_tables import show_agreement, show_reviews
    from zerogate.judging.answers import match, read_named
    from zerogate.judging.cost import Prices
    from zerogate.judging.endpoint import Endpoint
    from zerogate.judging.items import ANSWERING, Asking, Temperatures
    from zerogate.judging.questions import read_questions
    from zerogate.judging.run import plan_answers, plan_pairs, plan_ratings

    console = Console(stderr=True, highlight=False)
    asked = read_questions(questions) if questions is not None else None
    if reviews:
        show_reviews(files or [], asked, read_named(answers or []), out)
        return
    if agreement:
        show_agreement(files or [], read_named(answers or []))
        return
    if answer and files:
        raise UserError(f"--answer makes files of answers; judge them in a second command, with {files[0]}")
    if answer and asked is None:
        raise UserError("--answer needs the questions: --questions FILE")
    given = read_named(files or [])
    matched = asked if answer and asked is not None else match(given, asked, common)
    if common and not answer:
        console.print(f"{len(matched)} questions are answered in every file.")
    matched = matched[:limit]
    temperatures = (ANSWERING if answer else Temperatures()).changed(temperature or [])
    if url is None:
        raise UserError("name the endpoint: --url http://127.0.0.1:8000/v1, or the variable OPENAI_BASE_URL")
    if model is None and not answer:
        raise UserError("name the judge: --model NAME")
    endpoint = Endpoint(url.rstrip("/"), key_variable, concurrency, per_minute, timeout, retries)
    folder = out or Path("runs/judge")
    options: dict[str, Any] = {"use_cache": not no_cache, "retry_unparsed": retry_unparsed}

    def asking(name: str) -> Asking:
        return Asking(name, temperatures, max_tokens, _fields(extra))

    if answer:
        runs = [plan_answers(matched, asking(name), endpoint, folder, **options) for name in dict.fromkeys(answer)]
    else:
        plan = plan_ratings if single else plan_pairs
        runs = [plan(given, matched, asking(model or ""), endpoint, folder, criteria, **options)]
    prices = Prices(price_in, price_out)
    for run in runs:
        _say(run, prices, console)
    if dry_run:
        for message in runs[0].items[0].body["messages"]:
            print(f"--- {message['role']} ---\n{message['content']}\n")
        return
    _confirm(sum(run.estimate().requests for run in runs), yes)
    failed = [_finish(run, prices, console) for run in runs]
    if any(failed):
        raise typer.Exit(1)


def _say(run: Run, prices: Prices, console: Console) -> None:
    console.print(f"{run.asking.model} at {run.endpoint.url}", markup=False)
    for line in run.estimate().lines(prices):
        console.print(f"  {line}")
    if run.elsewhere:
        console.print(
            f"  [yellow]Known replies of a model of this name came from {', '.join(run.elsewhere)}; if that is another "
            "model, ask anew with --no-cache and another --out.[/]"
        )


def _confirm(requests: int, yes: bool) -> None:
    if not requests or yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{requests} requests would be sent; agree to it with --yes, or look closer with --dry-run")
    if not typer.confirm(f"Send {requests} requests?", err=True):
        raise typer.Exit(1)


def _finish(run: Run, prices: Prices, console: Console) -> int:
    """Ask, report, and say what was left out; returns how many requests failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from zerogate.cli.judge_tables import print_table

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("Asking", total=None)

        def progress(done: int, failed: int, total: int) -> None:
            note = f"Asking ({failed} failed)" if failed else "Asking"
            bar.update(shown, completed=done + failed, total=total, description=note)

        try:
            asked = run.ask(progress)
        except KeyboardInterrupt:
            console.print(f"Stopped. The replies in {run.file.path} are whole; the same command goes on from there.")
            raise
    for table in run.finish(asked, prices):
        print_table(table)
    if run.kind == "answers":
        console.print(f"{len(asked.replies)} answers in {run.file.path}.", soft_wrap=True)
    else:
        print(f"report      {run.folder / 'report.md'}, results.json, pictures")
        print(f"judgements  {run.file.path}")
    if run.cut_short(asked):
        console.print(f"{run.cut_short(asked)} --max-tokens allows longer ones.", style="yellow")
    if asked.failed:
        reasons = dict.fromkeys(asked.failed.values())
        console.print(
            f"[red]{len(asked.failed)} of the requests failed[/]; the same command asks them again. Why:",
            soft_wrap=True,
        )
        for reason in reasons:
            console.print(f"  {reason}", markup=False, soft_wrap=True)
    return len(asked.failed)


def _fields(extra: str) -> dict[str, Any]:
    import json

    try:
        found = json.loads(extra or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"--extra {extra!r} is malformed JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f'--extra {extra!r} is no JSON object, such as {{"seed": 1}}')
    ours = sorted({"model", "messages", "stream", "n"} & set(found))
    if ours:
        raise UserError(f"--extra sets {', '.join(ours)}, which zerogate judge sets itself")
    return found
