"""Answers that are numbers: the last number of a response, compared with the label."""

from __future__ import annotations

import re
from decimal import Context, Decimal
from math import inf, isfinite
from typing import Any

from zerogate.evaluation.scorers import Verdict, VerdictScorer, first_response, kind_of, own_turn

TOLERANCE = 0.001
"""By how much compat lets a number miss."""

FINEST = 6
"""Decimals that strict compares at most: a label such as 0.8333333333333334 is a fraction in floating point."""

_COMPAT = re.compile(r"-?\d+\.?\d*")

# What begins inside a word is no number (the 2 of m2), and a minus after a number or a bracket is a difference's.
_NUMBER = re.compile(
    r"""(?<!\w)(?P<sign>(?<![)\]])[-\u2212])?[$€£]?
        (?:(?:(?P<whole>\d+)\ )?(?P<over>\d+)/(?P<under>\d+)(?![/.,]?\d)
          |(?P<decimal>(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,2}(?!\w))?))""",
    re.VERBOSE | re.ASCII,
)
_LABEL = re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)?(\.\d*)?([eE][-+]?\d{1,3})?", re.ASCII)
_EXACT, _FRACTION = Context(prec=60), Context(prec=17)


class NumberScorer(VerdictScorer):
    """Word problems. No number at all is infinity to compat, and unanswered to strict."""

    def read_label(self, value: Any) -> str:
        """A finite number, or text of one; thousands may have commas, as in GSM8K's."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"is {kind_of(value)}, not a number")
        text = str(value).strip()
        if not _LABEL.fullmatch(text) or not re.search(r"\d", text):
            raise ValueError(f"{text!r} is not a number")
        text = text.replace(",", "")
        if not isfinite(float(text)):
            raise ValueError(f"{text!r} is too large a number")
        return text

    def judge(self, response: str, label: str) -> Verdict:
        """Compat: the last number is within 0.001. Strict: it is the label at the label's own precision."""
        numbers = _COMPAT.findall(first_response(response).replace(",", ""))
        theirs = float(numbers[-1]) if numbers else inf
        ours = _last_number(own_turn(response))
        return Verdict(
            compat=abs(float(label) - theirs) <= TOLERANCE,
            strict=ours is not None and _equal(ours, Decimal(label)),
            extracted_compat=str(theirs),
            extracted_strict=None if ours is None else format(ours, "f"),
        )


def _last_number(text: str) -> Decimal | None:
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007  the last one is wanted
        pass
    if last is None:
        return None
    if last["decimal"] is not None:
        value = Decimal(last["decimal"].replace(",", ""))
    elif Decimal(last["under"]) == 0:
        return None
    else:
        fraction = _FRACTION.divide(Decimal(last["over"]), Decimal(last["under"]))
        value = _FRACTION.add(Decimal(last["whole"] or 0), fraction)
    return value.copy_negate() if last["sign"] else value


def _equal(value: Decimal, label: Decimal) -> bool:
    """Whether the value, rounded as the label is, is the label. A whole label is a count: 13.5 is not 14."""
    exponent = label.as_tuple().exponent
    assert isinstance(exponent, int), "labels are finite"
    places = FINEST if label == label.to_integral_value() else min(-exponent, FINEST)
    half = Decimal(5).scaleb(-places - 1)
    outwards = _EXACT.subtract(value, label) * (1 if label >= 0 else -1)
    return -half <= outwards < half  # a half is rounded away from zero
