"""What a run will cost, said before it starts: requests, tokens and, with prices given, money.

No tokenizer is asked, as the judge's is seldom at hand: four bytes of text are counted as a token, which is about right
for English. What a run did cost is counted by the endpoint, and the report says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zerogate.judging.endpoint import Reply
from zerogate.judging.items import Item

_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


@dataclass(frozen=True)
class Prices:
    """Money per million tokens, in whatever currency."""

    input: float | None = None
    output: float | None = None

    @property
    def known(self) -> bool:
        """Whether any price was given."""
        return self.input is not None or self.output is not None

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost."""
        return (input_tokens * (self.input or 0.0) + output_tokens * (self.output or 0.0)) / 1e6


@dataclass(frozen=True)
class Estimate:
    """What is about to be asked.

    Attributes:
        items: all that the run is about.
        requests: what has to be sent for it, being neither known from before nor the same as another.
        input_tokens: about how many tokens are sent.
        output_tokens: how many may come back at the most; None where the endpoint sets the limit.
    """

    items: int
    requests: int
    input_tokens: int
    output_tokens: int | None

    def lines(self, prices: Prices) -> list[str]:
        """The estimate in words."""
        if not self.requests:
            return [f"All {self.items:,} replies are known already: there is nothing to send."]
        known = self.items - self.requests
        some = f"{known:,} of {self.items:,} are known already, " if known else ""
        output = "" if self.output_tokens is None else f", at most {self.output_tokens:,} come back"
        found = [f"{some}{self.requests:,} requests to send: about {self.input_tokens:,} tokens{output}."]
        if prices.known:
            found.append(f"Cost: about {money(prices.of(self.input_tokens, 0))} for what is sent")
            if self.output_tokens is not None:
                most = prices.of(self.input_tokens, self.output_tokens)
                found[-1] += f", at most {money(most)} with the replies"
            found[-1] += "."
        return found


def money(amount: float) -> str:
    """An amount, small ones with more digits."""
    return f"{amount:,.2f}" if amount >= 1 else f"{amount:.4f}"


def estimate(items: Sequence[Item], known: Iterable[str], max_tokens: int) -> Estimate:
    """Count what is not known yet; `max_tokens` 0 is no limit of ours."""
    have = set(known)
    fresh = {item.key: item for item in items if item.key not in have}
    sent = sum(_tokens(text) for item in fresh.values() for text in item.texts)
    return Estimate(len(items), len(fresh), sent, len(fresh) * max_tokens if max_tokens else None)


def used(replies: Iterable[Reply]) -> tuple[int, int]:
    """The tokens that the endpoint counted: sent and received."""
    counted = list(replies)
    return sum(reply.input_tokens for reply in counted), sum(reply.output_tokens for reply in counted)


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE
