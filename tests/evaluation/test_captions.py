"""BLEU-4 and CIDEr on values computed by hand, against another implementation, and through the command's scoring."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from zerogate.data.layouts import read_examples
from zerogate.errors import UserError
from zerogate.evaluation.caption_words import caption_words
from zerogate.evaluation.captions import CaptionScore, caption_score
from zerogate.evaluation.score import score_file, score_responses
from zerogate.evaluation.tasks import find_task

pytest.importorskip("pycocoevalcap")


def test_bleu4_by_hand() -> None:
    # 6 of 6 words stand in the reference, 4 of 5 pairs, 3 of 4 threes, 2 of 3 fours; six words where there are seven.
    score = caption_score(["a dog runs on the grass"], [["a dog runs on the green grass"]])
    assert score.bleu4 == pytest.approx((6 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25 * math.exp(1 - 7 / 6), abs=1e-6)
    assert score.cider is None and score.n == 1
    # A word counts as often as one reference has it: 3 of 4, then 2 of 3, 1 of 2, and 0 of 1, which makes it nothing.
    assert caption_score(["the the dog runs"], [["the dog runs away", "a the dog runs home"]]).bleu4 < 1e-3
    # Of several references the nearest in length is the one that a caption may be too short for: here none is.
    near = caption_score(["a dog runs home"], [["a dog runs home", "a dog runs home to its dear old mother"]])
    assert near.bleu4 == pytest.approx(1, abs=1e-6)
    same = caption_score(["A man rides a bike .", "Two dogs!"], [["a man rides a bike"], ["two dogs", "dogs"]])
    assert same.bleu4 == pytest.approx(1, abs=1e-6)


def test_bleu4_is_of_the_whole_corpus() -> None:
    # Counts are summed before dividing: (4 + 0) of (4 + 4) words, 3 of 6 pairs, 2 of 4 threes, 1 of 2 fours.
    score = caption_score(["a b c d", "w x y z"], [["a b c d"], ["e f g h"]])
    assert score.bleu4 == pytest.approx(0.5, abs=1e-6)


def test_cider_by_hand() -> None:
    references = [["a dog runs"], ["a cat sleeps"]]
    # Words, pairs and threes are those of the reference, there are no fours: 10 * (1 + 1 + 1 + 0) / 4.
    assert caption_score(["a dog runs", "a cat sleeps"], references).cider == pytest.approx(7.5)
    # "a" is in both images and weighs nothing. Of dog, sleeps against dog, runs one of two: cosine 1/2; so with pairs.
    assert caption_score(["a dog sleeps", "a cat sleeps"], references).cider == pytest.approx((2.5 + 7.5) / 2)
    # One word more: cosines 2 / sqrt(3 * 2) twice and 1 / sqrt(2), and the penalty of a length that is one off.
    longer = 10 * (2 * 2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / (2 * 6**2))
    assert caption_score(["a dog runs fast", "a cat sleeps"], references).cider == pytest.approx((longer + 7.5) / 2)
    # The mean over references.
    two = [["a dog runs", "my bird sings"], ["a cat sleeps"]]
    assert caption_score(["a dog runs", "a cat sleeps"], two).cider == pytest.approx((3.75 + 7.5) / 2)


def test_against_sacrebleu_on_what_people_wrote(shared_data: Callable[[str], Path]) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    examples = read_examples("flickr8k", str(shared_data("images")), "train", use_images=False)
    said = [example.answers[0] for example in examples]
    wanted = [example.answers[1:] for example in examples]
    score = caption_score(said, wanted)
    words = [" ".join(caption_words(text)) for text in said]
    streams = [[" ".join(caption_words(texts[n])) for texts in wanted] for n in range(4)]
    other = sacrebleu.corpus_bleu(words, streams, tokenize="none", smooth_method="none", force=True).score
    assert 100 * score.bleu4 == pytest.approx(other, abs=1e-3)
    assert 10 < other < 40 and score.cider is not None and 0.3 < score.cider < 1.2
    # Captions of other images score next to nothing.
    turned = caption_score(said[1:] + said[:1], wanted)
    assert turned.cider is not None and turned.cider < score.cider / 5 and turned.bleu4 < score.bleu4 / 2


@pytest.mark.skipif(shutil.which("java") is None, reason="COCO's own tokenizer needs Java")
def test_words_are_those_of_cocos_tokenizer(shared_data: Callable[[str], Path]) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    examples = read_examples("flickr8k", str(shared_data("images")), "train", use_images=False)
    captions = [caption for example in examples for caption in example.answers]
    captions += [
        "A man's dog isn't here!", "It cannot be, can't it? I'm gonna go", "the U.S. flag (red and white) [sic]",
        "at 10:30 a.m. in the 1990's", "black/white and/or T-shirt", "50% of $3.50 & rock-n-roll", "o'clock",
        "\"quoted\" 'single' text...", "one--two - three", "they're he'd we'll you've", "rock 'n' roll", "No. 5",
        "5'4\" tall", "who's that? what?!", "it\u2019s \u201csmart\u201d \u2014 dash", "2nd 3rd 1/2 1,000",
        "Mr. Smith vs. Dr. No.", "Mt. Rushmore at dawn", "5th Ave. sign", "by the Blvd.", "a '90s car",
        "dogs\u2026 running", "\u00bd of a pizza", "'tis a dog", "'twas so", "<unk> dog",
        "J. Smith and Lt. Gov. Brown", "** a star **",
    ]  # fmt: skip
    theirs = PTBTokenizer().tokenize({n: [{"caption": caption}] for n, caption in enumerate(captions)})
    different = [caption for n, caption in enumerate(captions) if caption_words(caption) != theirs[n][0].split()]
    assert different == []


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog isn't here!", ["a", "man", "'s", "dog", "is", "n't", "here"]),
        ("Two dogs , one black-and-white .", ["two", "dogs", "one", "black-and-white"]),
        ("(left) 5 p.m.", ["-lrb-", "left", "-rrb-", "5", "p.m."]),
        ("Mt. Rushmore by 5th Ave.", ["mt.", "rushmore", "by", "5th", "ave."]),
        ("J. Doe's '90s car", ["j.", "doe", "'s", "'90s", "car"]),
        ("'Tis \u00bd a <unk>\u2026", ["'t", "is", "1/2", "a", "<unk>"]),
        ("...", []),
        ("", []),
    ],
)
def test_words(caption: str, words: list[str]) -> None:
    assert caption_words(caption) == words


def test_empty_captions_are_counted() -> None:
    score = caption_score(["", " . "], [["a dog"], ["a cat"]])
    assert score == CaptionScore(2, 0.0, 0.0, 2)
    assert caption_score(["", "a cat"], [["a dog"], ["a cat"]]).empty == 1
    with pytest.raises(ValueError, match="1 captions and 2 lists"):
        caption_score(["a"], [["a"], ["b"]])


def test_saved_captions_are_scored_with_their_labels_or_the_data_set(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    task = find_task("flickr8k")
    data = f"{shared_data('images')}:train[:40]"
    examples = read_examples("flickr8k", data, "train", use_images=False)
    rows = [{"response": f"{example.answers[0]}\n### Instruction:\nand more"} for example in examples]
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = score_file(task, file, data)
    score = task.total(judged).as_dict()
    assert score["n"] == 40 and score["bleu4"] > 0.99 and score["empty"] == 0
    assert judged[0]["caption"] == "a black dog and a spotted dog are fighting"
    with_labels = [row | {"label": list(example.answers)} for row, example in zip(rows, examples, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in with_labels))
    assert task.total(score_file(task, file)).as_dict() == score
    with pytest.raises(UserError, match="no response is right or wrong by itself"):
        score_responses(task, ["a"], ["a"])


@pytest.mark.parametrize(
    ("label", "said"), [(3, "is a number"), ([], "no caption"), ("\n", "no caption"), ([1], "is a list")]
)
def test_labels_that_are_no_captions(label: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_task("coco").scorer.read_label(label)
