"""Positions, losses and merging against slow references that score every text whole, one by one."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny_base import make_base
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from zerogate.toolform.evaluate import perplexity
from zerogate.toolform.filter import WEIGHTS, Candidate, weigh
from zerogate.toolform.merge import Kept, merge
from zerogate.toolform.positions import Text, likely_positions
from zerogate.toolform.score import Row, log_probs, token_log_probs

PAD = 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(make_base(tmp_path_factory.mktemp("base"), context=512)).eval()
    for parameter in base.parameters():
        parameter.data *= 1.5  # a random model says nearly the same everywhere
    return base


def ids(count: int, seed: int) -> list[int]:
    return [random.Random(f"{seed} {n}").randrange(3, 60) for n in range(count)]


@torch.no_grad()
def alone(model: Any, whole: list[int]) -> Tensor:
    """[T - 1, V]: log probabilities of what follows each token."""
    return torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), -1)


def chance(model: Any, before: list[int], tokens: list[int]) -> float:
    found = alone(model, before + tokens)
    return float(sum(found[len(before) + n - 1, token] for n, token in enumerate(tokens)))


@pytest.mark.parametrize("positions", [1, 40, 8192])
def test_log_probabilities_do_not_depend_on_the_batch(model: Any, positions: int) -> None:
    rows = [
        Row(ids(length, length), start, end) for length, start, end in [(9, 1, 9), (3, 2, 3), (20, 5, 5), (12, 4, 7)]
    ]
    found = log_probs(model, rows, PAD, positions)
    same = token_log_probs(model, rows, 7, PAD, positions)
    for row, ours, token in zip(rows, found, same, strict=True):
        whole = alone(model, list(row.ids))
        expected = [float(whole[at - 1, row.ids[at]]) for at in range(row.start, row.end)]
        assert ours.tolist() == pytest.approx(expected, rel=1e-3)
        assert token.tolist() == pytest.approx([float(whole[at - 1, 7]) for at in range(row.start, row.end)], rel=1e-3)
    with pytest.raises(ValueError, match="tokens 0 to 2 of 3 cannot be scored"):
        log_probs(model, [Row([1, 2, 3], 0, 2)], PAD)


@pytest.mark.parametrize("opening", [[9], [9, 4], [11, 5, 6]])
@pytest.mark.parametrize("most", [1, 3, 50])
def test_the_likeliest_positions_are_those_of_a_search_one_by_one(model: Any, opening: list[int], most: int) -> None:
    before, text = ids(6, 1), ids(30, 2)
    options = {"threshold": 0.0, "most": 3, "pad_token_id": PAD}
    every = [(torch.tensor(chance(model, before + text[:i], opening)).exp().item(), i) for i in range(len(text))]
    every.sort(key=lambda one: (-one[0], one[1]))
    threshold = every[12][0] * (1 + 1e-4)
    texts = [Text(before, text), Text(before, []), Text(before, ids(9, 4))]
    found, nothing, short = likely_positions(model, texts, opening, threshold=threshold, most=most, pad_token_id=PAD)
    expected = [one for one in every if one[0] > threshold][:most]
    assert [index for index, _ in found] == [index for _, index in expected]
    assert [p for _, p in found] == pytest.approx([p for p, _ in expected], rel=1e-4)
    assert nothing == []
    (alone_,) = likely_positions(model, texts[2:], opening, threshold=threshold, most=most, pad_token_id=PAD)
    assert [index for index, _ in short] == [index for index, _ in alone_]
    assert len(likely_positions(model, texts[:1], opening, **(options | {"most": 40}))[0]) == 30


def test_weights_are_the_papers() -> None:
    assert pytest.approx((1 / 3, 4 / 15, 1 / 5, 2 / 15, 1 / 15)) == WEIGHTS


def test_losses_are_those_of_whole_texts_one_by_one(model: Any) -> None:
    start, text = [1], ids(25, 3)
    candidates = [Candidate(i, ids(4, i), [*ids(4, i), *ids(3, 100 + i)]) for i in (0, 5, 5, 19, 22, 24)]

    def loss(prefix: list[int], position: int) -> float:
        whole = [*start, *prefix, *text]
        found = alone(model, whole)
        before = len(start) + len(prefix)
        return -sum(
            weight * float(found[before + position + t - 1, text[position + t]])
            for t, weight in enumerate(WEIGHTS)
            if position + t < len(text)
        )

    other = [Candidate(3, ids(5, 50), ids(7, 51))]
    found, none, last = weigh(model, start, [(text, candidates), (ids(9, 8), []), (ids(12, 9), other)], PAD)
    ((again,),) = weigh(model, start, [(ids(12, 9), other)], PAD)
    assert none == [] and last[0].gain == pytest.approx(again.gain, abs=1e-4)
    for one, ours in zip(candidates, found, strict=True):
        assert ours.nothing == pytest.approx(loss([], one.position), rel=1e-3)
        assert ours.empty == pytest.approx(loss(list(one.call), one.position), rel=1e-3)
        assert ours.result == pytest.approx(loss(list(one.called), one.position), rel=1e-3)
        assert ours.gain == min(ours.nothing, ours.empty) - ours.result


def test_calls_go_in_by_tokens_and_the_better_one_at_a_place() -> None:
    text = list(range(10))
    calls = [Kept(4, 0.5, [40, 41]), Kept(0, 1.0, [99]), Kept(4, 0.7, [50]), Kept(10, 0.1, [60, 61])]
    assert merge(text, calls) == [99, 0, 1, 2, 3, 50, 4, 5, 6, 7, 8, 9, 60, 61]
    assert merge(text, []) == text
    with pytest.raises(ValueError, match="position 11 is not in a text of 10 tokens"):
        merge(text, [Kept(11, 1.0, [1])])


@pytest.mark.parametrize("length", [1, 2])
def test_perplexity_with_calls_ruled_out(model: Any, length: int) -> None:
    """Against the probability of every continuation, one by one, with the opening's taken out of it."""
    text, opening = Text(ids(6, 1), ids(12, 2)), []
    for _ in range(length):  # one that the model is fond of
        opening.append(int(alone(model, [*text.before, *opening])[-1].argmax()))
    loss = 0.0
    for place, token in enumerate(text.ids):
        before = [*text.before, *text.ids[:place]]
        loss -= chance(model, before, [token])
        loss += torch.log1p(-torch.tensor(chance(model, before, opening)).exp()).item()
    found = perplexity(model, [text], PAD, opening)
    assert found == pytest.approx(torch.tensor(loss / 12).exp().item(), rel=1e-3)
    assert found < perplexity(model, [text], PAD)


def test_perplexity_where_a_call_is_certain() -> None:
    """All other words have the same chance, and together one that float32 rounds away."""
    config = GPT2Config(vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2, tie_word_embeddings=False)
    certain = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        certain.transformer.ln_f.weight.zero_()
        certain.transformer.ln_f.bias.fill_(1.0)
        certain.lm_head.weight.zero_()
        certain.lm_head.weight[7] = 20 / 16
    assert perplexity(certain, [Text([2], [3, 4, 5])], PAD, [7]) == pytest.approx(31, rel=0.1)
