"""A whole run: what to ask is planned and counted, asked, and reported. The command line says yes in between.

run = Run.of_pairs(answers, questions, Asking("gpt-4o-mini"), Endpoint("https://api.openai.com/v1"), "runs/judge")
print(run.estimate().lines(Prices()))
result = run.finish(run.ask())
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zerogate.evaluation.write import write_rows
from zerogate.judging.answers import Answers
from zerogate.judging.ask import Asked, ask, recall
from zerogate.judging.cost import Estimate, Prices, estimate, money, used
from zerogate.judging.endpoint import Endpoint, Reply
from zerogate.judging.items import Asking, Item, answer_items, pair_items, rating_items
from zerogate.judging.kept import Cache, RunFile
from zerogate.judging.pairs import contests
from zerogate.judging.questions import Question
from zerogate.judging.ratings import ratings
from zerogate.judging.report import Table, write_contests, write_ratings
from zerogate.judging.verdict import pair_verdict, rating

Kind = Literal["pairs", "ratings", "answers"]
_FILES = {"pairs": "judgements.jsonl", "ratings": "ratings.jsonl"}


@dataclass
class Run:
    """What is to be asked of an endpoint, and what of it is known already.

    Attributes:
        kind: pairs of answers, answers alone, or questions.
        items: the requests.
        asking: what they have in common.
        endpoint: where they go.
        folder: where everything is written.
        file: the replies of this run and of those before it.
        cache: the replies of other runs, or None.
        kept: what need not be asked.
    """

    kind: Kind
    items: list[Item]
    asking: Asking
    endpoint: Endpoint
    folder: Path
    file: RunFile
    cache: Cache | None
    kept: dict[str, Reply] = field(default_factory=dict)

    @classmethod
    def plan(
        cls,
        kind: Kind,
        items: list[Item],
        asking: Asking,
        endpoint: Endpoint,
        folder: str | Path,
        *,
        use_cache: bool = True,
        retry_unparsed: bool = False,
    ) -> Run:
        """Look up what is known already.

        Args:
            kind: what the items are.
            items: from `zerogate.judging.items`.
            asking: what they were made with.
            endpoint: where to ask.
            folder: for the replies and the report.
            use_cache: take the replies of other runs, and keep these for them.
            retry_unparsed: ask again where an earlier reply could not be read.

        Raises:
            UserError: an address that is none, a missing key, or a file in the folder that is none of ours.
        """
        endpoint.check()
        name = _FILES.get(kind) or f"{answers_name(asking.model)}.jsonl"
        file = RunFile(Path(folder) / name)
        cache = Cache() if use_cache else None
        read = _READERS[kind]

        def usable(reply: Reply) -> bool:
            return not retry_unparsed or None not in read(reply.text).values()

        return cls(kind, items, asking, endpoint, Path(folder), file, cache, recall(items, file, cache, usable))

    def estimate(self) -> Estimate:
        """What asking will cost."""
        return estimate(self.items, self.kept, self.asking.max_tokens)

    @property
    def elsewhere(self) -> list[str]:
        """Other addresses that known replies came from: there, the model of this name may be another one."""
        return sorted({reply.url for reply in self.kept.values()} - {self.endpoint.url})

    def ask(self, progress: Callable[[int, int, int], None] | None = None) -> Asked:
        """Ask what is not known. See `zerogate.judging.ask.ask`."""
        return ask(self.items, self.kept, self.endpoint, self.file, self.cache, _READERS[self.kind], progress)

    def finish(self, asked: Asked, prices: Prices | None = None) -> list[Table]:
        """Write the report of what is there, or the answers in the order of the questions; returns the tables."""
        if self.kind == "answers":
            self._sort_answers(asked)
            return []
        lines = self._lines(asked, prices or Prices())
        about = self._about(asked, prices or Prices())
        if self.kind == "pairs":
            return write_contests(self.folder, contests(self.items, asked.replies), about, lines)
        return write_ratings(self.folder, ratings(self.items, asked.replies), about, lines)

    def cut_short(self, asked: Asked) -> str:
        """How many replies ran into the longest length, in words; empty where none did."""
        cut = sum(reply.finish == "length" for reply in asked.replies.values())
        return f"{cut} replies were cut off at the longest reply, {self.asking.max_tokens} tokens." if cut else ""

    def _sort_answers(self, asked: Asked) -> None:
        rows = [
            {"key": item.key} | item.label | _answered(reply.text) | asdict(reply)
            for item in self.items
            if (reply := asked.replies.get(item.key)) is not None
        ]
        write_rows(self.file.path, rows)

    def _about(self, asked: Asked, prices: Prices) -> dict[str, Any]:
        sent, received = used(asked.replies.values())
        return {
            "judge": {"model": self.asking.model, "url": self.endpoint.url}
            | {"answered_as": sorted({reply.model for reply in asked.replies.values()})}
            | {"temperature": self.asking.temperatures.as_dict(), "max_tokens": self.asking.max_tokens}
            | {"extra": dict(self.asking.extra)},
            "requests": len(self.items),
            "replies": {"sent": len(asked.sent), "known": len(self.kept), "failed": len(asked.failed)},
            "cut_short": sum(reply.finish == "length" for reply in asked.replies.values()),
            "tokens": {"input": sent, "output": received},
            "cost": prices.of(sent, received) if prices.known else None,
        }

    def _lines(self, asked: Asked, prices: Prices) -> list[str]:
        sent, received = used(asked.replies.values())
        cost = f", {money(prices.of(sent, received))} in all" if prices.known else ""
        temperatures = ", ".join(
            f"{name} {'not set' if value is None else f'{value:g}'}"
            for name, value in self.asking.temperatures.as_dict().items()
        )
        found = [
            f"Judge: {self.asking.model} at {self.endpoint.url}; temperature: {temperatures}. {len(self.items)} "
            f"requests, {sent:,} tokens sent and {received:,} received by the endpoint's count{cost}."
        ]
        cut = self.cut_short(asked)
        return [*found, cut] if cut else found


def plan_pairs(
    answers: Sequence[Answers], questions: Sequence[Question], asking: Asking, endpoint: Endpoint, folder: str | Path,
    criteria: str = "", **options: Any,
) -> Run:  # fmt: skip
    """Plan the comparison of each two files; options as for `Run.plan`."""
    return Run.plan("pairs", pair_items(answers, questions, asking, criteria), asking, endpoint, folder, **options)


def plan_ratings(
    answers: Sequence[Answers], questions: Sequence[Question], asking: Asking, endpoint: Endpoint, folder: str | Path,
    criteria: str = "", **options: Any,
) -> Run:  # fmt: skip
    """Plan a rating of each answer."""
    return Run.plan("ratings", rating_items(answers, questions, asking, criteria), asking, endpoint, folder, **options)


def plan_answers(
    questions: Sequence[Question], asking: Asking, endpoint: Endpoint, folder: str | Path, **options: Any
) -> Run:
    """Plan to have the questions answered, in a file that can be judged then."""
    items = [
        replace(item, label={"record": _record(question), "model_id": asking.model})
        for item, question in zip(answer_items(questions, asking), questions, strict=True)
    ]
    return Run.plan("answers", items, asking, endpoint, folder, **options)


def answers_name(model: str) -> str:
    """The file of a model's answers, without its ending."""
    return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in model).strip("-.") or "model"


def _record(question: Question) -> dict[str, str]:
    reference = {"reference": question.reference} if question.reference else {}
    return {"question_id": question.id, "category": question.category, "text": question.text} | reference


def _answered(text: str) -> dict[str, Any]:
    return {"response": text}


_READERS: Mapping[Kind, Callable[[str], Mapping[str, Any]]] = {
    "pairs": lambda text: {"verdict": pair_verdict(text)},
    "ratings": lambda text: {"rating": rating(text)},
    "answers": _answered,
}
