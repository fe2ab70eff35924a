"""Verdicts and ratings are read out of whatever judges write, and nothing is read where nothing stands."""

from __future__ import annotations

import pytest

from zerogate.judging.verdict import pair_verdict, rating


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("Both are fine, A is truer.\n\n[[A]]", "first"),
        ("[[B]]", "second"),
        ("I lean to [[A]] at first. But it is wrong.\n\n**[[B]]**", "second"),
        ("[[A]] or [[B]]? Neither: [[tie]].", "tie"),
        ("My verdict: [[ Tie ]]", "tie"),
        ("[[C]]", "tie"),
        ("[[Answer A]]", "first"),
        ("[[assistant b]]\n\nThat is all. Thank you for asking!", "second"),
        ("Reasons.\n\nFinal verdict: B", "second"),
        ("Reasons.\n\n> **Verdict:** `A`", "first"),
        ("Reasons.\n[B]\n\n", "second"),
        ("Tie.", "tie"),
        ("<think>It must be [[A]].</think>On reflection: [[B]]", "second"),
        ("<think>[[A]] it is</think>", None),
        ("<think>First I thought [[A]], and then", None),
        ("", None),
        ("I cannot decide.", None),
        ("A", "first"),
        ("A good answer.", None),
        ("Answer A is better than answer B", None),
        ("[[D]]", None),
        ("[[AB]]", None),
        ("[[A] ]", None),
        ("Plan B", None),
        ("the array x[[B]] was meant\n[[A]]", "first"),
    ],
)
def test_pair_verdict(reply: str, place: str | None) -> None:
    assert pair_verdict(reply) == place


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Good.\n\n[[8]]", 8.0),
        ("From [[3]] it rose to [[7.5]]. Well done.", 7.5),
        ("[[9/10]]", 9.0),
        ("[[Rating: 4]]", 4.0),
        ("**Rating: [[10]]**", 10.0),
        ("Fine.\nRating: 6", 6.0),
        ("Fine.\n6/10", 6.0),
        ("Fine.\n**Score:** 2 out of 10", 2.0),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[-3]]", None),
        ("[[5]] no, [[50]]", None),
        ("It has 7 points.", None),
        ("There were\n12", None),
        ("[[seven]]", None),
        ("", None),
    ],
)
def test_rating(reply: str, value: float | None) -> None:
    assert rating(reply) == value
