"""How judgements are counted: by hand where it is easy, by other libraries where there are any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_files import write
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from zerogate.errors import UserError
from zerogate.judging.agreement import agreement
from zerogate.judging.endpoint import Reply
from zerogate.judging.figures import bootstrap_mean, wilson
from zerogate.judging.items import ANSWERING, Asking, Item, Temperatures, make_item, pair_items
from zerogate.judging.pairs import Contest, contests, winner
from zerogate.judging.report import contest_table


@pytest.mark.parametrize(
    ("orders", "won"),
    [
        (("first", "second"), "a"),
        (("second", "first"), "b"),
        (("tie", "tie"), "tie"),
        (("first", "first"), "tie"),
        (("second", "second"), "tie"),
        (("first", "tie"), "tie"),
        (("tie", "first"), "tie"),
        ((None, "second"), "unparsed"),
        (("first", None), "unparsed"),
        ((None, None), "unparsed"),
    ],
)
def test_a_win_needs_both_orders(orders: tuple[Any, Any], won: str) -> None:
    assert winner(orders) == won


def contest(verdicts: list[tuple[str, str]]) -> Contest:
    """What replies with these verdicts, A first and then B first, come to; a `-` is a request that failed."""
    items, replies = [], {}
    for number, pair in enumerate(verdicts):
        for names, reply in zip((("a", "b"), ("b", "a")), pair, strict=True):
            label = {"question_id": str(number), "category": "even" if number % 2 == 0 else "odd"}
            key = f"{number}{names[0]}"
            items.append(Item(key, {}, label | {"first": names[0], "second": names[1]}))
            if reply != "-":
                replies[key] = Reply(f"Hm. [[{reply}]]")
    return contests(items, replies)[0]


def test_tallies_and_the_bias_of_places() -> None:
    found = contest(
        [("A", "B"), ("A", "B"), ("B", "A"), ("tie", "tie"), ("A", "A"), ("A", "tie"), ("tie", "A"), ("B", "B"),
         ("x", "B"), ("A", "-")]
    )  # fmt: skip
    total = found.total
    assert (total.wins, total.ties, total.losses, total.unparsed, total.missing, total.judged) == (2, 5, 1, 1, 1, 8)
    assert total.win_rate == 4.5 / 8
    assert found.categories["even"].wins == 1 and found.categories["odd"].missing == 1
    assert sum(tally.judged for tally in found.categories.values()) == 8
    bias = found.bias
    # Questions 4, 5 and 6 lean to the first place, 7 to the second; the unparsed and the missing one say nothing.
    assert (bias.agree, bias.first, bias.second, bias.share) == (4, 3, 1, 0.75)
    assert bias.verdicts == {"first": 3 + 2 + 2, "tie": 2 + 2, "second": 3 + 2}
    notes = " ".join(contest_table(found).notes)
    assert "the first place won 3 of 4 times: 75.0%" in notes
    assert "1 question without a verdict in a reply, and so not counted: 8." in notes
    assert "1 question not judged, a request failed: 9." in notes
    assert "do not tell the two apart" in notes


def test_nothing_judged_is_no_rate() -> None:
    found = contest([("x", "x")])
    assert found.total.win_rate is None and found.total.interval is None and found.bias.share is None
    assert contest_table(found).rows[0] == ["all", "0", "0", "0", "", "1"]


@pytest.mark.parametrize(("wins", "total"), [(0, 7), (7, 7), (8, 80), (41, 80), (1, 1)])
def test_wilsons_interval(wins: int, total: int) -> None:
    expected = binomtest(wins, total).proportion_ci(method="wilson")
    assert wilson(wins, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_tie_as_half_a_win_covers_at_least_95_percent() -> None:
    import numpy as np

    draws = np.random.default_rng(0).multinomial(40, [0.3, 0.4, 0.3], size=2000)
    covered = [low <= 0.5 <= high for won, tied, _ in draws for low, high in [wilson(won + tied / 2, 40)]]
    assert 0.95 <= sum(covered) / len(covered) < 1


def test_bootstrap_is_the_normal_interval_for_many_values() -> None:
    import numpy as np

    values = np.random.default_rng(1).normal(7, 2, 400).tolist()
    half = 1.96 * float(np.std(values)) / 20
    mean = sum(values) / 400
    assert bootstrap_mean(values) == pytest.approx((mean - half, mean + half), abs=0.02)
    assert bootstrap_mean([5.0]) == (5.0, 5.0)


def result(file: Path, a: str, b: str, winners: str) -> Path:
    names = {"a": "a", "b": "b", "t": "tie", "u": "unparsed"}
    duels = [{"question_id": str(n), "winner": names[letter]} for n, letter in enumerate(winners)]
    file.mkdir()
    (file / "results.json").write_text(json.dumps({"pairs": [{"a": a, "b": b, "questions": duels}]}))
    return file


def test_agreement_of_two_judges(tmp_path: Path) -> None:
    one, other = "aaabbtttau", "aabbbttaba"
    first = result(tmp_path / "one", "x", "y", one)
    found = agreement(first, result(tmp_path / "two", "x", "y", other))
    assert (found.questions, found.same, found.named, found.turned) == (9, 6, True, False)
    assert found.decided == (4, 6)
    assert found.kappa == pytest.approx(cohen_kappa_score(list(one[:9]), list(other[:9])))
    # The same judge with the two models the other way round.
    turned = other.translate(str.maketrans("ab", "ba"))
    again = agreement(first, result(tmp_path / "three", "y", "x", turned) / "results.json")
    assert again.turned and again.table == found.table
    # Saved reviews do not tell whose answers they are about.
    scores = {"a": [9, 8], "b": [8, 9], "t": [8, 8]}
    rows = [{"question_id": n, "score": scores[letter]} for n, letter in enumerate(other[:9])]
    reviews = agreement(first, write(tmp_path / "r.jsonl", rows))
    assert reviews.table == found.table and not reviews.named


def test_agreement_refuses_what_it_cannot_compare(tmp_path: Path) -> None:
    first = result(tmp_path / "one", "x", "y", "ab")
    with pytest.raises(UserError, match="no question in common"):
        agreement(first, result(tmp_path / "two", "x", "y", "uu"))
    (tmp_path / "results.json").write_text('{"models": []}')
    with pytest.raises(UserError, match="holds no pairs of models"):
        agreement(first, tmp_path)
    (tmp_path / "results.json").write_text('{"pairs": [{"a": "x"}]}')
    with pytest.raises(UserError, match="was not written by zerogate judge"):
        agreement(first, tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        agreement(first, tmp_path / "nowhere/results.json")


def test_temperatures() -> None:
    assert Temperatures().changed(["math=0", "0.3"]).as_dict() == {"default": 0.3, "math": 0.0}
    assert ANSWERING.of("writing") == 0.7 and ANSWERING.of("math") == 0.0 and ANSWERING.of("fermi") == 0.1
    assert ANSWERING.changed(["0.5"]).of("writing") == 0.5
    assert Asking("m", Temperatures(None)).body([], "x") == {"model": "m", "messages": [], "max_tokens": 1024}
    for wrong in ("warm", "-1", "math=hot", "inf", "nan"):
        with pytest.raises(UserError, match=f"--temperature {wrong}: expected a number"):
            Temperatures().changed([wrong])


def test_a_key_stands_for_all_that_is_sent() -> None:
    message = [{"role": "user", "content": "Hi."}]
    asking = Asking("m")
    others = [Asking("n"), Asking("m", Temperatures(0.1)), Asking("m", max_tokens=5), Asking("m", extra={"seed": 1})]
    keys = {make_item(one, message, "x", {}).key for one in (asking, *others)}
    assert len(keys) == 5
    assert make_item(asking, message, "x", {"question_id": "1"}).key == make_item(asking, message, "y", {}).key
    with pytest.raises(UserError, match="it takes two files of answers"):
        pair_items([], [], asking)
