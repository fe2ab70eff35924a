"""Splits are the same for one seed, leaks are found, and an epoch visits everything once with little padding."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from zerogate.data.batching import epoch_order, padded_share
from zerogate.data.encode import Encoded, EncodeReport
from zerogate.data.load import load_records
from zerogate.data.records import Record, Turn
from zerogate.data.section import DataSection
from zerogate.data.split import balance, find_leaks, split_held_out
from zerogate.data.stats import length_stats
from zerogate.errors import UserError


def ask(row: int, question: str) -> Record:
    return Record(row, (Turn("user", question), Turn("assistant", f"answer {row}")))


def test_split_is_a_function_of_the_seed() -> None:
    records = [ask(row, f"q{row}") for row in range(100)]
    kept, held = split_held_out(records, 10, seed=3)
    assert split_held_out(records, 10, seed=3) == (kept, held)
    assert split_held_out(records, 10, seed=4)[1] != held
    assert len(held) == 10 and sorted(kept + held, key=lambda r: r.row) == records
    with pytest.raises(UserError, match="leaves nothing to train on"):
        split_held_out(records, 100, seed=0)


def test_balanced_questions_have_every_answer_equally_often() -> None:
    said = [("is it red?", "no")] * 70 + [("is it red?", "yes")] * 10 + [("is it blue?", "no")] * 5 + [("who?", "me")]
    random.Random(0).shuffle(said)
    records = [Record(n, (Turn("user", q), Turn("assistant", a))) for n, (q, a) in enumerate(said, start=1)]
    kept = balance(records, seed=0)
    counts = Counter((record.turns[0].content, record.turns[1].content) for record in kept)
    assert counts == {("is it red?", "no"): 10, ("is it red?", "yes"): 10, ("is it blue?", "no"): 5, ("who?", "me"): 1}
    assert kept == sorted(kept, key=lambda record: record.row) and kept == balance(records, seed=0)
    assert kept != balance(records, seed=1)


def test_balancing_leaves_the_held_out_part_as_it_is(tmp_path: Path) -> None:
    rows = [{"instruction": "Is it red?", "input": "", "output": "yes" if n % 8 == 0 else "no"} for n in range(80)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    plain, balanced = (
        load_records(DataSection(path=str(file), held_out=16, balance=balancing)) for balancing in (False, True)
    )
    assert balanced[1] == plain[1] and len(plain[0]) == 64
    yes = sum(record.turns[-1].content == "yes" for record in plain[0])
    assert len(balanced[0]) == 2 * yes and set(balanced[0]) < set(plain[0])


def test_leaks() -> None:
    train = [ask(1, "What is it?"), ask(2, "Who, then?")]
    held = [ask(3, "What is it?"), ask(4, "who  THEN"), ask(5, "Where?")]
    report = find_leaks(train, held)
    assert (report.exact, report.normalised) == ((3,), (4,))
    assert "1 of 3" in report.line()
    assert "no leak" in find_leaks(train, held[2:]).line()


@pytest.mark.parametrize("grouped", [True, False])
def test_epoch_order(grouped: bool) -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 200) for _ in range(1003)]
    order = epoch_order(lengths, 8, seed=1, epoch=0, group_by_length=grouped)
    assert sorted(order) == list(range(1003))
    assert order == epoch_order(lengths, 8, seed=1, epoch=0, group_by_length=grouped)
    assert order != epoch_order(lengths, 8, seed=1, epoch=1, group_by_length=grouped)
    assert order != epoch_order(lengths, 8, seed=2, epoch=0, group_by_length=grouped)
    share = padded_share(lengths, 8, order)
    assert share < 0.05 if grouped else share > 0.25
    # Long and short batches are mixed: a stretch of the epoch looks like the whole.
    firsts = [lengths[i] for i in order[:400]]
    assert abs(sum(firsts) / 400 - sum(lengths) / 1003) < 25


def test_length_stats_by_hand() -> None:
    import numpy as np

    lengths = [2, 4, 6, 8]
    ids = [np.zeros(n, dtype=np.int32) for n in lengths]
    labels = [np.array([-100] * (n - 2) + [1, 1]) for n in lengths]
    stats = length_stats(Encoded(ids, labels, [1, 2, 3, 4], EncodeReport()), batch_size=4)
    assert (stats.minimum, stats.median, stats.mean, stats.maximum, stats.tokens) == (2, 5, 5, 8, 20)
    assert stats.learned == 7  # the first of the two-token sequence has nothing before it
    assert stats.padding == pytest.approx(1 - 20 / 32)


def test_the_pocket_world_brings_its_own_held_out_half() -> None:
    whole_train, whole_held, format = load_records(DataSection(path="pocket"))
    assert format == "alpaca" and len(whole_train) > 1000 and len(whole_held) > 1000
    assert find_leaks(whole_train, whole_held).exact == ()
    train, held, _ = load_records(DataSection(path="pocket", held_out=50))
    assert train == whole_train
    assert len(held) == 50 and {r.prompt_key for r in held} <= {r.prompt_key for r in whole_held}
    with pytest.raises(UserError, match=rf"data\.held_out=10000000, but pocket has {len(whole_held)} held-out records"):
        load_records(DataSection(path="pocket", held_out=10_000_000))


def test_settings_are_chosen_within_the_training_half() -> None:
    whole_train, whole_held, _ = load_records(DataSection(path="pocket"))
    train, held, _ = load_records(DataSection(path="pocket-tuning"))
    known = {r.prompt_key for r in whole_train}
    assert {r.prompt_key for r in train} | {r.prompt_key for r in held} <= known
    assert len(held) > 200 and find_leaks(train, held).exact == ()
    assert not {r.prompt_key for r in held} & {r.prompt_key for r in whole_held}
