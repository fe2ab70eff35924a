"""The requests of a run: what is sent for each question, and the key by which an answer is known again.

A key is made from all that is sent: model, prompt with question and answers, temperature, longest reply. What has the
same key is asked once, in this run and in later ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from zerogate.data.jsonl import whole_text
from zerogate.errors import UserError
from zerogate.judging.answers import Answers
from zerogate.judging.prompts import Messages, pair_messages, rating_messages
from zerogate.judging.questions import Question


@dataclass(frozen=True)
class Temperatures:
    """The temperature of each category; `default` for those not named. None leaves it to the endpoint."""

    default: float | None = 0.0
    categories: Mapping[str, float | None] = field(default_factory=dict)

    def of(self, category: str) -> float | None:
        """The temperature for a question of this category."""
        return self.categories.get(category, self.default)

    def as_dict(self) -> dict[str, float | None]:
        """For reports; the default under `default`."""
        return {"default": self.default, **self.categories}

    def changed(self, words: Sequence[str]) -> Temperatures:
        """These with some of them set: `0.2` for all categories, then `math=0` for one, `none` to send none.

        Raises:
            UserError: it is no number of 0 or more.
        """
        values = {"default": self.default, **self.categories}
        for word in sorted(words, key=lambda word: "=" in word):
            category, sign, text = word.rpartition("=")
            try:
                value = None if text.lower() == "none" else float(text)
            except ValueError:
                value = -1.0
            if value is not None and not 0 <= value < float("inf"):
                raise UserError(f"--temperature {word}: expected a number of 0 or more, or none, or CATEGORY=NUMBER")
            values = values | {category: value} if sign else dict.fromkeys(values, value)
        return Temperatures(values.pop("default"), values)


# Where there is one right answer, chance only does harm; a story or a role has many good ones.
ANSWERING = Temperatures(0.1, {"writing": 0.7, "roleplay": 0.7, "coding": 0.0, "math": 0.0})


@dataclass(frozen=True)
class Asking:
    """What all requests of a run have in common.

    Attributes:
        model: the model's name at the endpoint.
        temperatures: by category.
        max_tokens: longest reply; 0 leaves it to the endpoint.
        extra: more fields of the request, such as `seed`.
    """

    model: str
    temperatures: Temperatures = Temperatures()
    max_tokens: int = 1024
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, messages: Messages, category: str) -> dict[str, Any]:
        """What is sent."""
        body: dict[str, Any] = {"model": self.model, "messages": messages}
        temperature = self.temperatures.of(category)
        body |= {} if temperature is None else {"temperature": temperature}
        body |= {"max_tokens": self.max_tokens} if self.max_tokens else {}
        return body | dict(self.extra)


@dataclass(frozen=True)
class Item:
    """One request.

    Attributes:
        key: a digest of the body.
        body: what is sent.
        label: what it is about, as its line in the file says: question_id, category, and who stands where.
    """

    key: str
    body: dict[str, Any]
    label: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        """What is sent, message by message."""
        return [str(message["content"]) for message in self.body["messages"]]


def make_item(asking: Asking, messages: Messages, category: str, label: dict[str, Any]) -> Item:
    """A request with its key."""
    body = asking.body(messages, category)
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return Item(hashlib.sha256(text.encode()).hexdigest()[:32], body, label)


def pair_items(
    answers: Sequence[Answers], questions: Sequence[Question], asking: Asking, criteria: str = ""
) -> list[Item]:
    """Both orders of each question for each two of the files: 160 requests for 80 questions and two files.

    Raises:
        UserError: fewer than two files.
    """
    if len(answers) < 2:
        raise UserError("it takes two files of answers to compare; --single rates the answers of one")
    items = []
    for a, b in combinations(answers, 2):
        for question in questions:
            for first, second in ((a, b), (b, a)):
                messages = pair_messages(question, first.texts[question.id], second.texts[question.id], criteria)
                label = {"question_id": question.id, "category": question.category}
                label |= {"first": first.name, "second": second.name}
                items.append(make_item(asking, messages, question.category, label))
    return items


def rating_items(
    answers: Sequence[Answers], questions: Sequence[Question], asking: Asking, criteria: str = ""
) -> list[Item]:
    """One request for each answer."""
    return [
        make_item(
            asking,
            rating_messages(question, answer.texts[question.id], criteria),
            question.category,
            {"question_id": question.id, "category": question.category, "rated": answer.name},
        )
        for answer in answers
        for question in questions
    ]


def answer_items(questions: Sequence[Question], asking: Asking) -> list[Item]:
    """One request for each question, to be answered rather than judged."""
    return [
        make_item(
            asking,
            [{"role": "user", "content": whole_text(question.text)}],
            question.category,
            {"question_id": question.id, "category": question.category},
        )
        for question in questions
    ]
