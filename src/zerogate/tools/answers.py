"""Question answering: known facts by their questions, or a reader over passages that a search engine finds.

facts({"who lives in the den?": "the fox"})
reader(engine, read)            # read(question, passage) -> an answer and how sure it is, or None
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from zerogate.tools.search.engine import Engine
from zerogate.tools.search.words import words_of
from zerogate.tools.tool import Limits, Sampling, Tool, ToolError

Read = Callable[[str, str], tuple[str, float] | None]
"""From a question and a passage to an answer and how sure it is, or None where the passage has none."""

EXAMPLES = (
    "The old mill stands on the [QA(Which river does the old mill stand on?) -> Arn] Arn.",
    "Ida Solberg, who painted [QA(What did Ida Solberg paint?) -> The Grey Harbour] The Grey Harbour, died in 1911.",
    "A kestrel eats mostly [QA(What does a kestrel eat?) -> voles] voles.",
)

_NAME, _DESCRIPTION = "QA", "Answers a question about a fact in a few words."


def facts(known: Mapping[str, str], name: str = _NAME) -> Tool:
    """A table of questions and answers; case, punctuation and spacing do not matter.

    Args:
        known: answers by question.
        name: of the tool.
    """
    table = {_key(question): answer for question, answer in known.items()}

    def run(input: str) -> str:
        if (answer := table.get(_key(input))) is None:
            raise ToolError(f"the answer to {input[:80]!r} is not known")
        return answer

    return Tool(name, _DESCRIPTION, run, examples=EXAMPLES, sampling=Sampling(0.05, 5, 5, 1.0))


def reader(engine: Engine, read: Read, name: str = _NAME, passages: int = 5) -> Tool:
    """The surest answer that the passages found for a question hold.

    Args:
        engine: finds them.
        read: looks for an answer in one.
        name: of the tool.
        passages: how many are read.
    """

    def run(input: str) -> str:
        answers = [read(input, f"{p.title}. {p.text}") for p, _ in engine.search(input, passages)]
        found = [answer for answer in answers if answer is not None]
        if not found:
            raise ToolError(f"no passage answers {input[:80]!r}")
        return max(found, key=lambda answer: answer[1])[0]

    limits = Limits(seconds=30.0)  # several passages are read, by a model
    return Tool(name, _DESCRIPTION, run, examples=EXAMPLES, sampling=Sampling(0.05, 5, 5, 1.0), limits=limits)


def _key(question: str) -> str:
    return " ".join(words_of(question))
