"""A Toolformer from recipe to answers, stage by stage; each stage goes on where it was stopped.

    from zerogate.toolform.recipe import load_toolform
    from zerogate.toolform.run import Toolform
    Toolform(load_toolform("recipes/toolform-pocket.yaml")).run()

In the output folder stand `sampled.jsonl`, `executed.jsonl`, `filtered.jsonl` and `merged.jsonl`, the trained adapters
(`proposer`, `adapter`, `without-calls`), every answer under `answers`, and `report.md` with `results.json`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zerogate.bases.adapted import load_adapted
from zerogate.bases.decode import context_length
from zerogate.bases.load import load_base
from zerogate.data.jsonl import changed_settings, whole_lines
from zerogate.data.load import Data
from zerogate.errors import UserError
from zerogate.toolform import report
from zerogate.toolform.document import Clock, Document, read_demonstrations, read_documents
from zerogate.toolform.evaluate import ask, perplexity
from zerogate.toolform.learn import demonstrations_data, texts_data
from zerogate.toolform.positions import Text
from zerogate.toolform.recipe import ToolformRecipe
from zerogate.toolform.stages import (
    LONG_DOCUMENTS,
    LONG_RESULTS,
    Row,
    augment,
    execute,
    funnel,
    sample,
    start_tokens,
    weigh_calls,
)
from zerogate.toolform.tasks import read_tasks
from zerogate.toolform.worlds import WORLDS
from zerogate.tools.answers import Read
from zerogate.tools.inline import OPEN
from zerogate.tools.named import named_tools
from zerogate.tools.registry import Toolbox
from zerogate.training.checkpoints import write_text
from zerogate.training.run import train
from zerogate.training.run_folder import read_summary

STAGES = ("sample", "execute", "filter", "merge", "train", "evaluate")
_HELD_OUT = 200


class Toolform:
    """One recipe, and what has come of it so far.

    Args:
        recipe: from `load_toolform`.
        console: where to report; standard error by default.
        reader_of: as for `named_tools`.

    Raises:
        UserError: a tool that is not there, a `sampling` for none of them, or a folder of another recipe.
    """

    def __init__(
        self,
        recipe: ToolformRecipe,
        console: Console | None = None,
        reader_of: Callable[[str], Read] | None = None,
    ) -> None:
        self.recipe, self.console = recipe, console or Console(stderr=True, highlight=False)
        self.folder, self.clock = Path(recipe.output), Clock()
        self.tools = _tools(recipe, self.clock, reader_of)
        self.tasks = read_tasks((one.task, one.data, one.limit) for one in recipe.evaluate)
        self._early = self._refuse_other()

    @cached_property
    def documents(self) -> list[Document]:
        """What calls are put into."""
        section = self.recipe.documents
        return (
            WORLDS[section.path].documents(section.limit or 1000)
            if section.path in WORLDS
            else read_documents(section.path, section.limit)
        )

    def run(self, stages: tuple[str, ...] = STAGES) -> None:
        """Run some of the stages, in their order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "toolform.json", json.dumps(self._early, indent=1))
        for number, stage in enumerate(STAGES, start=1):
            if stage in stages:
                self.console.rule(f"{number} of {len(STAGES)}: {stage}", align="left")
                getattr(self, f"_{stage}")()
        if (self.folder / "filtered.jsonl").exists():
            self.write_report()

    def _sample(self) -> None:
        documents = self.documents
        proposer = self._adapt("proposer", self._demonstrations()) if self.recipe.proposer else None
        model, tokenizer = self._model(proposer)
        with self._progress("documents") as progress:
            sample(
                model, tokenizer, self.tools, documents, self._file("sampled"),
                shown=proposer is None, seed=self.recipe.seed, temperature=self.recipe.temperature,
                batch_size=self.recipe.batch_size, progress=progress,
            )  # fmt: skip
        self._tell_too_long("sampled", LONG_DOCUMENTS, "documents do not fit into the base's context with a call")

    def _execute(self) -> None:
        with self._progress("documents") as progress:
            execute(self.tools, self._file("sampled"), self._file("executed"), self.clock, progress)

    def _filter(self) -> None:
        model, tokenizer = self._model(self._trained("proposer") if self.recipe.proposer else None)
        with self._progress("documents") as progress:
            weigh_calls(model, tokenizer, self._file("executed"), self._file("filtered"), progress)
        self._tell_too_long("filtered", LONG_RESULTS, "calls do not fit into the base's context with their results")

    def _tell_too_long(self, name: str, step: str, what: str) -> None:
        for tool, counts in funnel(whole_lines(self._file(name))).items():
            if counts[step]:
                self.console.print(f"[yellow]{tool}: {counts[step]:,} {what}: left out.[/]")

    def _merge(self) -> None:
        tokenizer = self._tokenizer
        count = augment(tokenizer, self.tools, self._file("filtered"), self._file("merged"))
        self.console.print(f"{count:,} of {len(whole_lines(self._file('filtered'))):,} texts have calls that help")

    def _train(self) -> None:
        if not (rows := self._merged()):
            raise UserError("there is nothing to learn from: no text has a call that helps; look at the funnel")
        called, plain = ([row[column] for row in rows] for column in ("ids", "plain_ids"))
        if self.recipe.plain == "documents":
            plain = [row["ids"] for row in whole_lines(self._file("filtered"))]
        self._adapt("adapter", self._texts(called if self.recipe.plain == "none" else called + plain))
        if self.recipe.without_calls:
            self._adapt("without-calls", self._texts(plain))

    def _texts(self, texts: list[list[int]]) -> Data:
        return texts_data(self._tokenizer, texts, self.recipe.max_length)

    def _adapt(self, which: str, data: Data) -> Path:
        """The trained adapter; what is trained already is taken as it is."""
        recipe = self.recipe.training(which, self.folder)
        folder, learned = Path(recipe.output), hashlib.sha256()
        for part in (*data.train.input_ids, *data.train.labels):
            learned.update(part.tobytes())
        spec = {"texts": learned.hexdigest()[:16], **recipe.model_dump(mode="json")}
        kept = folder / "learned.json"
        old = json.loads(kept.read_text()) if kept.exists() else None
        if old is not None and (changed := changed_settings(old, spec)):
            raise UserError(
                f"{folder} has learned from other texts or settings ({changed[:300]}); delete it to train anew"
            )
        if read_summary(folder) is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(kept, json.dumps(spec, indent=1))
            train(recipe, resume=(folder / "recipe.yaml").exists(), console=self.console, data=data)
        return self._trained(which)

    def _evaluate(self) -> None:
        if not self.tasks:
            self.console.print("the recipe's `evaluate` names nothing to ask")
            return
        folder = self.folder / "answers"
        folder.mkdir(exist_ok=True)
        results: dict[str, Any] = {}
        kinds = [("base", None, 0), ("without calls", "without-calls", 0), ("tools off", "adapter", 0)]
        for name, which, calls in [*kinds, ("with tools", "adapter", self.recipe.most_calls)]:
            if which == "without-calls" and not self.recipe.without_calls:
                continue
            adapter = self._trained(which) if which else None
            model, tokenizer = self._model(adapter)
            start, learned = start_tokens(tokenizer), _fingerprint(adapter)
            parts = {}
            for part, questions in self.tasks.items():
                with self._progress(f"{name}: {part}") as progress:
                    parts[part] = ask(
                        model, tokenizer, questions, self.tools, self.clock, start, folder / f"{name}, {part}.jsonl",
                        most_calls=calls, open_top_k=self.recipe.open_top_k,
                        max_new_tokens=self.recipe.max_new_tokens, learned=learned, progress=progress,
                    )  # fmt: skip
                if long := parts[part]["too_long"]:
                    self.console.print(f"[yellow]{name}: {long:,} questions of {part} leave no room for an answer.[/]")
            results[name] = {"parts": parts}
            if calls == 0:
                opening = tokenizer(OPEN, add_special_tokens=False)["input_ids"]
                limit = context_length(model)
                # An opening is tried after all of a text. What does not fit is cut off, for all models alike.
                room = None if limit is None else limit - len(start) - len(opening)
                texts = [
                    Text(start, tokenizer(text, add_special_tokens=False)["input_ids"][:room])
                    for text in self._others()
                ]
                pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
                results[name]["perplexity"] = perplexity(model, texts, pad, opening if which == "adapter" else None)
        write_text(self.folder / "results.json", json.dumps(results, indent=1))

    def write_report(self) -> None:
        """`report.md`, and the same in the terminal.

        Raises:
            UserError: no calls have been weighed yet.
        """
        file = self._file("filtered")
        if not file.exists():
            raise UserError(f"there is nothing to report yet: {file} is made by the stages up to `filter`")
        rows = report.with_places(self._tokenizer, whole_lines(file))
        report.write(self.folder, self.recipe.title, rows, self.tools, self.console)

    def _demonstrations(self) -> Data:
        section = self.recipe.proposer
        assert section is not None
        texts = (
            WORLDS[section.demonstrations].demonstrations(section.limit or 1000)
            if section.demonstrations in WORLDS
            else read_demonstrations(section.demonstrations, list(self.tools))[: section.limit]
        )
        return demonstrations_data(self._tokenizer, texts, list(self.tools), self.recipe.max_length)

    def _others(self) -> list[str]:
        """Texts of the documents' kind that were not learned from: those that have no calls, or a world's next ones."""
        if self.recipe.documents.path in WORLDS:
            return [one.text for one in WORLDS[self.recipe.documents.path].documents(_HELD_OUT, seed=1)]
        merged = {row["row"] for row in self._merged()}
        found = [row["text"] for row in whole_lines(self._file("filtered")) if row["row"] not in merged]
        return found[:_HELD_OUT] or [document.text for document in self.documents[:_HELD_OUT]]

    def _merged(self) -> list[Row]:
        file = self._file("merged")
        if not file.exists():
            raise UserError(f"{file} is not there: run the stages before this one first")
        return whole_lines(file)

    @cached_property
    def _tokenizer(self) -> Any:
        return self._model(None)[1]

    def _model(self, adapter: Path | None) -> tuple[Any, Any]:
        base = self.recipe.base
        options: dict[str, Any] = {
            "dtype": base.dtype,
            "device": base.device,
            "quantization": base.quantization,
            "attn_implementation": base.attn_implementation,
        }
        model: Any
        if adapter is None:
            model, tokenizer = load_base(base.name, **options)
        else:
            model, tokenizer = load_adapted(base.name, {"default": adapter}, **options)
        return model.eval(), tokenizer

    def _trained(self, which: str) -> Path:
        folder = self.folder / which
        if read_summary(folder) is None:
            stage = "sample" if which == "proposer" else "train"
            raise UserError(f"{folder} is not trained yet: run `zerogate toolform {stage}` first")
        return folder / "last"

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _refuse_other(self) -> dict[str, Any]:
        """How calls are sampled and weighed: as the folder's own were. The others may change."""
        kept = self.folder / "toolform.json"
        early = {"base", "tools", "documents", "proposer", "seed", "temperature", "sampling", "max_length"}
        new = json.loads(self.recipe.model_dump_json(include=early))
        for section in new["sampling"].values():
            del section["gain"]
        if kept.exists() and (changed := changed_settings(json.loads(kept.read_text()), new)):
            raise UserError(f"{self.folder} was made with another recipe ({changed}); delete it, or choose another")
        return new

    @contextmanager
    def _progress(self, what: str) -> Iterator[Callable[[int, int], None]]:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _tools(recipe: ToolformRecipe, clock: Clock, reader_of: Callable[[str], Read] | None) -> Toolbox:
    found = named_tools(recipe.tools, clock, reader_of)
    if unknown := [name for name in recipe.sampling if found.find(name) is None]:
        raise UserError(f"sampling.{unknown[0]}: there is no such tool; there are {', '.join(found)}")
    own = {name.lower(): section.model_dump(exclude_none=True) for name, section in recipe.sampling.items()}
    return Toolbox(
        replace(tool, sampling=replace(tool.sampling, **own.get(name.lower(), {}))) for name, tool in found.items()
    )


def _fingerprint(adapter: Path | None) -> str:
    """Of an adapter's weights; empty for the base."""
    if adapter is None:
        return ""
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
