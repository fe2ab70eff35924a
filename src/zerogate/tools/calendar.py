"""The calendar: which day it is, by a clock that can be set to the date of a document."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from zerogate.tools.tool import Limits, Sampling, Tool

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

EXAMPLES = (
    "The library closes early, since it is [Calendar() -> Today is Friday, October 9, 2026.] Friday.",
    "Our lease ends this year, in [Calendar() -> Today is Tuesday, March 3, 2026.] 2026.",
    "There are a few days left of [Calendar() -> Today is Thursday, May 28, 2026.] May, and then summer begins.",
    "The harvest feast is two days away, on [Calendar() -> Today is Saturday, September 26, 2026.] Monday.",
)


def calendar(today: Callable[[], date] = date.today) -> Tool:
    """The tool.

    Args:
        today: the clock.
    """
    return Tool(
        "Calendar",
        "Says what day it is today.",
        lambda: say(today()),
        {"type": "object", "properties": {}, "required": []},
        examples=EXAMPLES,
        sampling=Sampling(threshold=0.05, positions=5, calls=5, gain=1.0),
        limits=Limits(seconds=1.0, input_characters=100),
    )


def say(day: date) -> str:
    """`Today is Monday, January 30, 2023.`, the paper's words, in English whatever the machine speaks."""
    return f"Today is {_DAYS[day.weekday()]}, {_MONTHS[day.month - 1]} {day.day}, {day.year}."
