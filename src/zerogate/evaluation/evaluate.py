"""Ask a model every question of a task and score its answers: in batches, saved as they come, resumed after a stop.

    questions = read_questions(find_task("gsm8k"), "gsm8k_test.jsonl")
    result = evaluate_task(model, tokenizer, find_task("gsm8k"), questions)
    print(f"{result.compat:.1%} by the authors' rules, {result.strict:.1%} by ours, {result.unanswered} unanswered")

The model may be a base alone or carry an adapter: the one that is active answers. Decoding is deterministic (beam
search, or greedy), and prompts are padded on the left under a mask, so that a response does not depend on its batch.
That holds of a base in float32; in bfloat16 the rounding of a batch's sums tips close choices (on `pocket`, one
response in five).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zerogate.bases.decode import context_length
from zerogate.data.encode import prompt_ids
from zerogate.data.jsonl import append_lines, changed_settings, cut_torn_line, whole_lines
from zerogate.data.records import Turn
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.evaluation.accuracy import Score
from zerogate.evaluation.other_images import shuffled_images
from zerogate.evaluation.responses import Asked, Batch, Responses, respond
from zerogate.evaluation.scorers import Figures
from zerogate.evaluation.tasks import Question, Task
from zerogate.vision.adapter_encoders import AdapterEncoders, active_adapter
from zerogate.vision.check import check_images

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ImageUse = Literal["own", "other", "none"]


@dataclass(frozen=True)
class TaskResult:
    """How a model did on a task.

    Attributes:
        task: the task's name.
        score: both accuracies and the counts; for captions, BLEU-4 and CIDEr.
        decoding: how the answers were made.
        rows: one per question, as `predictions` has them: row, prompt, response, label, both extracted answers and
            both verdicts (for captions, the words that count).
        resumed: how many of them an earlier run had answered.
    """

    task: str
    score: Figures
    decoding: dict[str, Any]
    rows: list[dict[str, Any]]
    resumed: int = 0

    @property
    def n(self) -> int:
        """Questions asked."""
        return self.score.n

    @property
    def compat(self) -> float:
        """Share of right answers by the authors' rules, 0 to 1."""
        return self._accuracy().compat

    @property
    def strict(self) -> float:
        """Share of right answers by ours, 0 to 1."""
        return self._accuracy().strict

    @property
    def unanswered(self) -> int:
        """How many responses gave no answer that strict could take."""
        return self._accuracy().unanswered

    def _accuracy(self) -> Score:
        if not isinstance(self.score, Score):
            figures = ", ".join(self.score.as_dict())
            raise UserError(f"{self.task} has no right and wrong answers, so it has no accuracy; it has {figures}")
        return self.score


def mean_accuracy(results: Sequence[TaskResult]) -> tuple[float, float]:
    """The mean over tasks of (compat, strict), each task counted once whatever its size, as in the paper's tables."""
    if not results:
        raise ValueError("there are no results to average")
    n = len(results)
    return sum(result.compat for result in results) / n, sum(result.strict for result in results) / n


def evaluate_task(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    questions: Sequence[Question],
    *,
    template: TemplateName = "alpaca",
    batch_size: int = 8,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    images: ImageUse = "own",
    encoders: AdapterEncoders | None = None,
    predictions: Path | None = None,
    models: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    skip_long: bool = False,
    progress: Callable[[int, int], None] | None = None,
    spread: Callable[[Iterable[Batch]], Iterable[Responses]] | None = None,
) -> TaskResult:
    """Ask every question with the adapter that is active, and score the answers.

    Args:
        model: base or adapted model, in eval mode.
        tokenizer: its tokenizer.
        task: the rules.
        questions: from `read_questions`.
        template: how a question is worded.
        batch_size: questions at a time. It changes no answer.
        max_new_tokens: longest answer; the task's own by default.
        num_beams: width of the beam search, 1 is greedy; the task's own by default.
        images: which images the questions are shown with, where the adapter takes images: their own, those of other
            questions, or none. What a model gains over the last two, it gains by seeing.
        encoders: those of the model, to load none of them twice.
        predictions: a JSONL file to write each batch to at once, or to go on with.
        models: what answers (base, adapter, ...), to be recorded with each prediction.
        overwrite: begin anew where `predictions` exists.
        skip_long: count questions without room for an answer as unanswered, instead of refusing to start.
        progress: called with questions done and questions in all.
        spread: answers batches somewhere else, such as `zerogate.inference.workers` with `answering`, and yields the
            responses of each in their order. The model may then be one without weights (`device="meta"`).

    Raises:
        UserError: no questions, questions that are too long, images that cannot be read, other images asked for and
            none taken, or `predictions` of other questions or settings.
        ValueError: the model is in training mode, so dropout would make its answers random; or images are to be shown
            that the questions were read without.
    """
    if not questions:
        raise UserError(f"{task.name}: there are no questions to ask")
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() first")
    beams, longest_answer = num_beams or task.num_beams, max_new_tokens or task.max_new_tokens
    decoding: dict[str, Any] = {"num_beams": beams, "max_new_tokens": longest_answer, "do_sample": False}
    decoding |= {"template": template, **(models or {})}
    encoders = encoders or AdapterEncoders(model)
    adapter = active_adapter(model)
    sees = adapter in encoders.seeing and any(item.images or item.left_out for item in questions)
    if sees and images != "none" and any(item.left_out for item in questions):
        raise ValueError("the questions were read without their images: read them with use_images=True to show some")
    if images == "other":
        if not sees:
            raise UserError(f"{task.name}: there is nothing to shuffle: {_why_blind(questions)}")
        questions = shuffled_images(questions, seed=0)
    decoding |= {"images": images} if sees else {}
    prompts = [prompt_ids([Turn("user", item.instruction, item.input)], template, tokenizer) for item in questions]
    texts = [str(tokenizer.decode(prompt)) for prompt in prompts]
    limit = context_length(model)
    too_long = {n for n, prompt in enumerate(prompts) if limit is not None and len(prompt) >= limit}
    if too_long and not skip_long:
        first = min(too_long)
        raise UserError(
            f"{task.name}: {len(too_long)} of {len(prompts)} prompts leave no room for an answer in the base's {limit} "
            f"tokens; the first is row {questions[first].row} with {len(prompts[first])}. Count them as unanswered "
            "with --skip-long, or take another base"
        )
    rows = [] if overwrite or predictions is None else _resume(predictions, task, questions, texts, decoding)
    resumed = len(rows)
    if sees and images != "none":
        check_images((item.row, item.images) for item in questions[resumed:]).refuse(task.name)
    if predictions is not None and not resumed:
        predictions.write_bytes(b"")
    if progress is not None:
        progress(resumed, len(questions))
    places = [range(n, min(n + batch_size, len(questions))) for n in range(resumed, len(questions), batch_size)]
    asked = {
        n: Asked(questions[n].row, prompts[n], questions[n].images if sees and images != "none" else ())
        for n in range(resumed, len(questions))
        if n not in too_long
    }
    batches = (Batch({n: asked[n] for n in batch if n in asked}, beams, longest_answer) for batch in places)
    answered = spread(batches) if spread is not None else (respond(model, tokenizer, encoders, b) for b in batches)
    for batch, answers in zip(places, answered, strict=True):
        fresh = [_row(task, questions[n], texts[n], answers.get(n), decoding) for n in batch]
        rows += fresh
        if predictions is not None:
            with predictions.open("ab") as opened:
                append_lines(opened, fresh)
        if progress is not None:
            progress(batch.stop, len(questions))
    return TaskResult(task.name, task.total(rows), decoding, rows, resumed)


def _why_blind(questions: Sequence[Question]) -> str:
    if not any(question.images or question.left_out for question in questions):
        return "its questions have no images"
    return "the model takes no images; only an adapter that was trained with images does"


def _row(task: Task, question: Question, prompt: str, response: str | None, decoding: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"task": task.name, "row": question.row, "prompt": prompt, "response": response}
    row |= question.known() | task.scorer.fields(response or "", question.label)
    if response is None:
        row["error"] = "the prompt leaves no room for an answer"
    return row | {"decoding": decoding}


def _resume(
    file: Path, task: Task, questions: Sequence[Question], prompts: Sequence[str], decoding: dict[str, Any]
) -> list[dict[str, Any]]:
    """The rows that an earlier run wrote, judged anew; a torn last line is cut off."""
    if not file.exists():
        return []
    anew = "choose another --out, or pass --overwrite to begin anew"
    rows = whole_lines(file)
    if len(rows) > len(questions):
        raise UserError(f"{file} has {len(rows)} rows, the questions are only {len(questions)}; {anew}")
    for n, row in enumerate(rows):
        question = questions[n]
        # First, as other settings may show other images, which are not other questions.
        if row.get("task") == task.name and (changed := changed_settings(row.get("decoding"), decoding)):
            raise UserError(f"{file} was made with other settings ({changed}); {anew}")
        same = {"task": task.name, "row": question.row, "label": question.label}
        same |= {"images": question.known()["images"]} if question.images else {}
        if any(row.get(field) != value for field, value in same.items()) or "response" not in row:
            raise UserError(f"{file}, line {n + 1} answers another question than the data has there; {anew}")
        if row.get("prompt") != prompts[n]:
            raise UserError(f"{file}, line {n + 1} answers another question than the data has there; {anew}")
        row |= question.known() | task.scorer.fields(row["response"] or "", question.label)
    cut_torn_line(file)
    return rows
