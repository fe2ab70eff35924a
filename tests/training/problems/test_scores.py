"""Figures against values worked out by hand."""

from __future__ import annotations

import pytest

from zerogate.training.problems.squad_score import best_margin, exact_match, f1, normalised


def test_what_squad_compares() -> None:
    assert normalised("The  Denver-Broncos, a team!") == "denverbroncos team"


@pytest.mark.parametrize(
    ("answer", "truths", "exact", "common"),
    [
        ("the Broncos", ["Broncos", "Denver Broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos"], 0.0, 2 / 3),  # 1 of 1 said, 1 of 2 true
        ("in the big big city", ["big city", "city"], 0.0, 2 * 2 / (4 + 2)),  # "the" goes; one "big" counts
        ("Paris", ["London"], 0.0, 0.0),
        ("", [], 1.0, 1.0),  # no answer, and none said
        ("Paris", [], 0.0, 0.0),
        ("", ["Paris"], 0.0, 0.0),
        ("", ["the"], 1.0, 1.0),  # nothing remains of the truth
        ("the", ["Paris", "a"], 0.0, 0.0),  # truths of which nothing remains do not count beside others
    ],
)
def test_exact_match_and_f1(answer: str, truths: list[str], exact: float, common: float) -> None:
    assert exact_match(answer, truths) == exact
    assert f1(answer, truths) == pytest.approx(common)


@pytest.mark.parametrize(
    ("margins", "answered", "silent", "best"),
    [
        ([3.0, -1.0, -2.0], [1, 0.5, 0], [0, 0, 1], -1.0),  # the third has no answer
        ([3.0, 2.0, 1.0], [0, 1, 1], [1, 0, 0], 1.0),  # what the first costs, the others bring
        ([3.0, 2.0, 1.0], [0, 0, 1], [1, 1, 0], 4.0),  # silence is best
        ([2.0, 2.0], [1, 0], [0, 1], 3.0),  # equally sure: both or neither
    ],
)
def test_the_best_margin(margins: list[float], answered: list[float], silent: list[float], best: float) -> None:
    assert best_margin(margins, answered, silent) == best
