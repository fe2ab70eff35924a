"""The calculator: the four operations, brackets and percentages, exactly, rounded to two decimals at the end.

    expression = term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = ("+" | "-") factor | "(" expression ")" | number | factor "%"

Numbers may have thousands separators (`1,400.5`). There are no names, powers or functions, so there is nothing to
exploit: an input is tokens of this grammar or an error.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow

from zerogate.tools.tool import Limits, Sampling, Tool, ToolError

_TOKEN = re.compile(r"\s*(?:(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)|([-+*/()%]))")
_SAME = str.maketrans("\u00d7\u00b7\u00f7\u2212\u2013[]", "**/--()")  # signs as people typeset them
_MOST_DIGITS = 30
_MOST_TOKENS = 200
_MOST_DEPTH = 40
_EXACT = Context(prec=60, traps=[DivisionByZero, InvalidOperation, Overflow])

EXAMPLES = (
    "Twelve crates hold 18 jars each, so the cellar has [Calculator(12 * 18) -> 216] 216 jars.",
    "Of 1,250 seats 1,075 were sold, which is [Calculator(1,075 / 1,250 * 100) -> 86] 86 percent of the house.",
    "The bridge was begun in 1871 and opened in 1889, after [Calculator(1889 - 1871) -> 18] 18 years.",
    "Three runs took 41, 44 and 38 seconds, an average of [Calculator((41 + 44 + 38) / 3) -> 41] 41 seconds.",
    "With 7.5% of tax the bill of 240 comes to [Calculator(240 + 240 * 7.5%) -> 258] 258.",
)


def calculator() -> Tool:
    """The tool."""
    return Tool(
        "Calculator",
        "Works out an expression of numbers with + - * / ( ) and %, rounded to two decimals.",
        lambda input: calculate(input),
        examples=EXAMPLES,
        sampling=Sampling(threshold=0.0, positions=20, calls=10, gain=0.5),
        limits=Limits(seconds=1.0, input_characters=500),
    )


def calculate(expression: str) -> str:
    """The value of an expression, with at most two decimals.

    Raises:
        ToolError: it is no such expression, divides by zero, or is too long or too deep.
    """
    parser = _Parser(_tokens(expression))
    try:
        value = parser.expression(0)
    except (DivisionByZero, InvalidOperation) as error:
        raise ToolError("division by zero") from error
    except Overflow as error:
        raise ToolError("the result is too large") from error
    if parser.at < len(parser.tokens):
        token = parser.tokens[parser.at]
        hint = "" if token == ")" else ": a sign is missing before it"
        shown = token if isinstance(token, str) else f"{token:f}"
        raise ToolError(f"'{shown}' is not expected there{hint}")
    return _shown(value)


def _shown(value: Decimal) -> str:
    if abs(value.adjusted()) > 2 * _MOST_DIGITS:
        raise ToolError("the result has too many digits")
    text = f"{value.quantize(Decimal('0.01'), ROUND_HALF_UP, context=Context(prec=200)):f}"
    text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _tokens(expression: str) -> list[Decimal | str]:
    text = expression.translate(_SAME).strip()
    tokens: list[Decimal | str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ToolError(f"{text[at:].strip()[:12]!r} is neither a number nor one of + - * / ( ) %")
        number, sign = found.groups()
        if number is not None and sum(map(str.isdigit, number)) > _MOST_DIGITS:
            raise ToolError(f"a number has more than {_MOST_DIGITS} digits")
        tokens.append(sign if number is None else Decimal(number.replace(",", "")))
        at = found.end()
        if len(tokens) > _MOST_TOKENS:
            raise ToolError(f"the expression has more than {_MOST_TOKENS} parts")
    if not tokens:
        raise ToolError("there is nothing to work out")
    return tokens


class _Parser:
    def __init__(self, tokens: list[Decimal | str]) -> None:
        self.tokens, self.at = tokens, 0

    def next_is(self, *signs: str) -> str | None:
        """Takes the next token if it is one of these."""
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if isinstance(token, str) and token in signs:
            self.at += 1
            return token
        return None

    def expression(self, depth: int) -> Decimal:
        value = self.term(depth)
        while sign := self.next_is("+", "-"):
            other = self.term(depth)
            value = _EXACT.add(value, other) if sign == "+" else _EXACT.subtract(value, other)
        return value

    def term(self, depth: int) -> Decimal:
        value = self.factor(depth)
        while sign := self.next_is("*", "/"):
            other = self.factor(depth)
            value = _EXACT.multiply(value, other) if sign == "*" else _EXACT.divide(value, other)
        return value

    def factor(self, depth: int) -> Decimal:
        if depth > _MOST_DEPTH:
            raise ToolError(f"brackets and signs are more than {_MOST_DEPTH} deep")
        if sign := self.next_is("+", "-"):
            value = self.factor(depth + 1)
            return value if sign == "+" else _EXACT.minus(value)
        if self.next_is("("):
            value = self.expression(depth + 1)
            if not self.next_is(")"):
                raise ToolError("a bracket is not closed")
        else:
            token = self.tokens[self.at] if self.at < len(self.tokens) else None
            if not isinstance(token, Decimal):
                raise ToolError(f"a number is missing {'at the end' if token is None else f'before {token!r}'}")
            value = token
            self.at += 1
        while self.next_is("%"):
            value = _EXACT.divide(value, Decimal(100))
        return value
