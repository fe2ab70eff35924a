"""Readers for `qa=DOCUMENTS@MODEL`: a run of `zerogate train` on questions about passages, or what `zerogate.tools`
knows already, an endpoint or a model with a question answering head.

    named_tools(["qa=notes/@runs/squad"], reader_of=reader_of)
"""

from __future__ import annotations

from pathlib import Path

from zerogate.errors import UserError
from zerogate.tools import reading
from zerogate.tools.answers import Read


def reader_of(name: str) -> Read:
    """A reader by name.

    Args:
        name: a run's folder, an endpoint's address, or a model's folder or name on the Hub.

    Raises:
        UserError: it cannot be loaded, or answers no questions.
    """
    folder = Path(name).expanduser()
    made_here = any((folder / file).is_file() for file in ("adapter_config.json", "recipe.yaml"))
    return trained_reader(folder) if made_here else reading.reader_of(name)


def trained_reader(folder: Path) -> Read:
    """What a run with `task: question_answering` has learned; no answer where that is likelier than every other.

    Raises:
        UserError: no such run, or one of another task.
    """
    from zerogate.inference.predict import Predictor
    from zerogate.training.problems.question_answering import QuestionAnswering
    from zerogate.training.problems.trained import load_trained

    trained = load_trained(folder)
    if trained.task is not QuestionAnswering:
        raise UserError(f"{folder} has not learned to answer questions about passages (task: question_answering)")
    predictor = Predictor(trained, margin=0.0)

    def read(question: str, passage: str) -> tuple[str, float] | None:
        (row,) = predictor([{"question": question, "context": passage}])
        return (row["answer"], row["score"]) if row["answer"] else None

    return read
