"""Two verdicts on every response: `compat`, the rules that published figures were made with, and `strict`, ours.

    scorer = find_task("gsm8k").scorer
    verdict = scorer.judge("The total is 1,250 apples.", scorer.read_label("1250"))
    verdict.compat, verdict.strict, verdict.extracted_strict    # True, True, "1250"

`compat` is LLM-Adapters' evaluation (arXiv 2304.01933) to the letter, its slips included, so that new figures can
stand beside theirs. `strict` asks what the response says: a minus is a sign only where a number begins, an option's
letter must stand alone, and a response that settles on nothing is unanswered. docs/score.md has the rules in words.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from zerogate.evaluation.accuracy import Score, total

# A model that runs on after its answer writes the template's next heading. GSM8K's "#### 72" is none.
_NEXT_TURN = re.compile(r"^### ?(?:Instruction|Input|Response|Observation)\b.*", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """What the two scorings make of one response.

    Attributes:
        compat: right by the authors' rules.
        strict: right by ours.
        extracted_compat: the answer that compat took, as the authors' logs print it: a number (`72.0`; `inf` for
            none), or a word or a letter (empty for none).
        extracted_strict: the answer that strict took; None where the response gives none.
    """

    compat: bool
    strict: bool
    extracted_compat: str
    extracted_strict: str | None

    @property
    def unanswered(self) -> bool:
        """Whether the response gives no answer that strict could take."""
        return self.extracted_strict is None


class Figures(Protocol):
    """What all responses of a set come to."""

    @property
    def n(self) -> int:
        """Responses scored."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""


class Scorer(ABC):
    """How responses of one kind are scored, one by one and all together."""

    @abstractmethod
    def read_label(self, value: Any) -> str:
        """A label in its one spelling.

        Raises:
            ValueError: not a label of this kind; the message goes on from "the label".
        """

    @abstractmethod
    def fields(self, response: str, label: str) -> dict[str, Any]:
        """What a row of predictions says of its response; `label` as `read_label` returned it."""

    @abstractmethod
    def total(self, rows: Iterable[Mapping[str, Any]], kinds: Sequence[str] = ()) -> Figures:
        """The score of all rows, which have `response`, `label`, their fields, and `kinds` where the task has them.

        Args:
            rows: the predictions.
            kinds: the order to show kinds of questions in.
        """


class VerdictScorer(Scorer):
    """Responses that are right or wrong each."""

    @abstractmethod
    def judge(self, response: str, label: str) -> Verdict:
        """Both verdicts on a response; `label` as `read_label` returned it."""

    def fields(self, response: str, label: str) -> dict[str, Any]:
        """The verdict."""
        return asdict(self.judge(response, label))

    def total(self, rows: Iterable[Mapping[str, Any]], kinds: Sequence[str] = ()) -> Score:
        """Both accuracies, of all and of each kind."""
        return total(rows, kinds)


def own_turn(response: str) -> str:
    """What the model wrote before it began to play the next turn, too."""
    return _NEXT_TURN.sub("", response)


def first_response(response: str) -> str:
    """What LLM-Adapters' scripts read: what follows the prompt's `### Response:` up to another one."""
    return response.split("### Response:", 1)[0].strip()


def kind_of(value: Any) -> str:
    """A JSON value's kind, for messages."""
    kinds = {bool: "true or false", type(None): "null", list: "a list", dict: "an object", str: "text"}
    return kinds.get(type(value), "a number")
