"""The calculator: exact values against fractions, what it refuses, and that nothing else than sums gets through."""

from __future__ import annotations

import random
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest

from zerogate.tools.calculator import calculate, calculator
from zerogate.tools.tool import Sampling, ToolError


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("27 + 4 * 2", "35"),
        ("(27 + 4) * 2", "62"),
        ("1 / 3", "0.33"),
        ("2 / 3", "0.67"),
        ("0.1 + 0.2", "0.3"),
        ("1,400.5 + 1", "1401.5"),
        ("12,345,678 / 2", "6172839"),
        ("11.4%", "0.11"),
        ("50% * 50%", "0.25"),
        ("200%%", "0.02"),
        ("-3 - -3", "0"),
        ("--4", "4"),
        ("+5", "5"),
        ("-(2 + 3) * 2", "-10"),
        ("8 / 4 / 2", "1"),
        ("10 - 4 - 3", "3"),
        (".5 * 4", "2"),
        ("3 \u00d7 4 \u2212 6 \u00f7 2", "9"),
        ("[1 + 2] * 3", "9"),
        ("007 + 1", "8"),
        ("1.005", "1.01"),
        ("-0.001", "0"),
        ("2.675 * 1", "2.68"),
    ],
)
def test_values(expression: str, value: str) -> None:
    assert calculate(expression) == value


def test_random_expressions_have_the_value_of_exact_fractions() -> None:
    rng = random.Random(0)

    def build(depth: int) -> tuple[str, Fraction]:
        if depth == 0 or rng.random() < 0.2:
            number = f"{rng.randrange(1, 1000)}" + (f".{rng.randrange(10, 100)}" if rng.random() < 0.5 else "")
            return number, Fraction(number)
        left, a = build(depth - 1)
        right, b = build(depth - 1)
        sign = rng.choice("+-*/")
        if sign == "/" and b == 0:
            sign = "+"
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
        return f"({left} {sign} {right})", value

    for _ in range(300):
        expression, value = build(4)
        exact = Decimal(value.numerator) / Decimal(value.denominator)
        expected = exact.quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert Decimal(calculate(expression)) == expected, expression


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "nothing to work out"),
        ("   ", "nothing to work out"),
        ("1 +", "a number is missing at the end"),
        ("* 2", "a number is missing before '\\*'"),
        ("(1 + 2", "a bracket is not closed"),
        ("1 + 2)", r"^'\)' is not expected there$"),
        ("()", "a number is missing"),
        ("1 2", "is not expected there"),
        ("1 + 2 0.50", r"^'0\.50' is not expected there: a sign is missing before it$"),
        ("1 0.00000001", r"^'0\.00000001' is not expected there"),
        ("(1)(2)", r"^'\(' is not expected there: a sign is missing before it$"),
        ("5 % 3", "^'3' is not expected there"),
        ("2 ** 9", "a number is missing before"),
        ("2 ^ 9", "neither a number"),
        ("9e999999999", "neither a number"),
        ("1 / 0", "division by zero"),
        ("0 / 0", "division by zero"),
        ("1 / (2 - 2)", "division by zero"),
        ("abs(-2)", "'abs\\(-2\\)' is neither a number"),
        ("__import__('os').system('true')", "neither a number"),
        ("(lambda: 1)()", "neither a number"),
        ("1 if 1 else 2", "neither a number"),
        ("0x10", "neither a number"),
        ("1,00 + 1", "neither a number"),
        ("\u0661 + \u0661x", "neither a number"),
        ("9" * 31, "more than 30 digits"),
        ("1 + " * 200 + "1", "more than 200 parts"),
        ("(" * 60 + "1" + ")" * 60, "more than 40 deep"),
        ("-" * 60 + "1", "more than 40 deep"),
        (" * ".join(["9" * 30] * 20), "too many digits|too large"),
        ("1\x00+1", "neither a number"),
        ("1 -> 2]", "neither a number"),
    ],
)
def test_what_is_no_sum_is_refused(expression: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        calculate(expression)


def test_as_a_tool() -> None:
    tool = calculator()
    assert tool.call("400 / 1400").result == "0.29"
    assert tool.call({"input": "2 * 3"}).result == "6"
    failed = tool.call("2 +")
    assert failed.result == "" and failed.error == "a number is missing at the end"
    assert "longer than 500" in (tool.call("1" * 600).error or "")
    assert tool.sampling == Sampling(threshold=0.0, positions=20, calls=10, gain=0.5)  # the paper's, appendix A
