"""Calls through the registry: records, limits, schemas, and what hostile input comes to."""

from __future__ import annotations

import time
from datetime import date

import pytest

from zerogate.errors import UserError
from zerogate.tools import Limits, Tool, Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar
from zerogate.tools.functions import tool
from zerogate.tools.inline import find_calls, without_calls, write_call, write_called
from zerogate.tools.tool import ToolError, clean


def test_every_call_is_recorded_and_names_that_are_not_there_never_run() -> None:
    tools = Toolbox([calculator(), calendar(lambda: date(2023, 1, 30))])
    assert tools.call("calculator", "1 + 1").result == "2"
    assert tools.call("Calendar", "").result == "Today is Monday, January 30, 2023."
    wrong = tools.call("Calculater", "1 + 1")
    assert wrong.error == "there is no tool 'Calculater'; did you mean Calculator? Known tools: Calculator, Calendar"
    assert [called.name for called in tools.calls] == ["Calculator", "Calendar", "Calculater"]
    assert all(called.seconds >= 0 for called in tools.calls)
    assert list(tools) == ["Calculator", "Calendar"] and len(tools) == 2 and tools["Calendar"].name == "Calendar"
    with pytest.raises(UserError, match="two tools are called 'CALENDAR'"):
        tools.add(Tool("CALENDAR", "", lambda: ""))
    with pytest.raises(ValueError, match="letters, digits and underscores"):
        Tool("a b", "", lambda: "")


def test_time_and_length_have_limits() -> None:
    slow = Tool("slow", "", lambda input: time.sleep(5) or "", limits=Limits(seconds=0.05))
    started = time.perf_counter()
    assert slow.call("x").error == "no answer within 0.05 seconds"
    assert time.perf_counter() - started < 2
    long = Tool("long", "", lambda input: "ab " * 1000, limits=Limits(output_characters=10))
    called = long.call("x")
    assert called.result == "ab ab ab a" and called.cut
    assert long.call("x" * 3000).error == "the arguments are longer than 2,000 characters"


def test_whatever_happens_inside_is_an_error_of_the_record() -> None:
    def broken(input: str) -> str:
        raise RuntimeError("out of paper")

    def leaves(input: str) -> str:
        raise SystemExit(3)

    assert Tool("broken", "", broken).call("x").error == "RuntimeError: out of paper"
    assert Tool("leaves", "", leaves).call("x").error == "the tool ended with SystemExit"
    assert Tool("odd", "", lambda input: 7).call("x").result == "7"  # type: ignore[arg-type, return-value]


def test_results_are_one_clean_line() -> None:
    dirty = "one\n\ttwo\x00\x1b[31m three\u200b\u202e  four\r\n"
    assert clean(dirty) == "one two[31m three four"
    assert Tool("dirty", "", lambda input: dirty).call("x").result == "one two[31m three four"


def test_a_function_becomes_a_tool_with_a_schema() -> None:
    @tool
    def weather(city: str, days: int = 1, units: list[str] | None = None) -> str:
        """What the weather
        will be.

        Further lines are for people.
        """
        return f"{city}, {days}, {units}"

    assert weather.name == "weather" and weather.description == "What the weather will be."
    assert weather.parameters["required"] == ["city"] and weather.parameters["properties"]["days"]["type"] == "integer"
    assert weather.call({"city": "Brenna", "days": 3}).result == "Brenna, 3, None"
    assert weather.call('{"city": "Brenna", "units": ["C"]}').result == "Brenna, 1, ['C']"
    assert weather.call({"days": 3}).error == "weather needs city"
    assert weather.call({"city": 3}).error == "weather: city is to be of type string, not int"
    assert weather.call({"city": "B", "days": True}).error == "weather: days is to be of type integer, not bool"
    assert "units: " in (weather.call({"city": "B", "units": [4]}).error or "")
    assert weather.call({"city": "B", "wind": 1}).error == "weather takes city, days, units, not 'wind'"
    assert weather.call("Brenna").error == "weather takes city, days, units, as a JSON object"
    assert weather.call("[" * 100_000).error is not None

    @tool(name="Twice", limits=Limits(seconds=1))
    def double(text: str) -> str:
        return text * 2

    assert double.name == "Twice" and double.call("ab").result == "abab"


def test_a_text_is_the_value_of_the_only_parameter() -> None:
    @tool
    def square(n: int) -> str:
        return str(n * n)

    @tool
    def total(numbers: list[float]) -> str:
        return f"{sum(numbers):g}"

    @tool
    def opposite(given: bool) -> str:
        return str(not given)

    assert [square.call(text).result for text in ("12", " -3 ", '{"n": 4}')] == ["144", "9", "16"]
    assert square.call("twelve").error == "square takes n, as JSON of type integer"
    assert square.call("1.5").error == "square: n is to be of type integer, not float"
    assert square.call('{"m": 4}').error == "square needs n"
    assert total.call("[1, 2.5]").result == "3.5" and opposite.call("true").result == "False"
    for one, given in ((square, "12"), (total, '{"numbers": [1, 2]}'), (opposite, "true")):
        (found,) = find_calls(write_called(one, one.call(given)), [one.name])
        assert found.input == {"square": "12", "total": "(1, 2)", "opposite": "true"}[one.name]


def test_a_schema_may_allow_several_types() -> None:
    """As servers of other languages describe what may be left out."""

    def made(*kinds: str) -> Tool:
        return Tool("show", "", lambda x: f"{x!r}", {"type": "object", "properties": {"x": {"type": list(kinds)}}})

    number = made("integer", "null")
    assert number.call("3").result == "3" and number.call({"x": None}).result == "None"
    assert number.call({"x": "3"}).error == "show: x is to be of type integer or null, not str"
    assert made("string", "null").call("null").result == "'null'"


def test_a_function_that_cannot_be_a_tool_is_refused() -> None:
    def untyped(x) -> str:  # type: ignore[no-untyped-def]
        return ""

    def many(*x: str) -> str:
        return ""

    def strange(x: ToolError) -> str:
        return ""

    for function, message in ((untyped, "needs a type"), (many, "by name"), (strange, "JSON does not have")):
        with pytest.raises(TypeError, match=message):
            tool(function)


TEXT = "It was [Calculator(1889 - 1871) -> 18] 18 years, see [4] and [Calendar()] or [Delete(all) -> done]."


def test_calls_in_a_text_are_found_and_taken_out() -> None:
    found = find_calls(TEXT, ["Calculator", "Calendar"])
    assert [(c.name, c.input, c.result) for c in found] == [
        ("Calculator", "1889 - 1871", "18"),
        ("Calendar", "", None),
    ]
    assert without_calls(TEXT, ["Calculator", "Calendar"]) == "It was 18 years, see [4] and or [Delete(all) -> done]."
    assert find_calls(TEXT, []) == []


@pytest.mark.parametrize("result", ["4", "", "see [4]", "a -> b]", "x] [Calculator(1) -> 2", "two\nlines \x00"])
def test_no_result_can_pass_for_another_call(result: str) -> None:
    text = f"Before{write_call('QA', 'who? ] -> [x', result)} after"
    found = find_calls(text, ["QA", "Calculator"])
    assert len(found) == 1 and found[0].name == "QA" and "]" not in (found[0].result or "")
    assert text.startswith("Before [QA(who? ) \u2192 (x) ->") and without_calls(text, ["QA"]) == "Before after"


def test_a_call_is_written_as_it_was_made() -> None:
    tools = Toolbox([calculator(), calendar(lambda: date(2023, 1, 30))])
    assert write_called(tools["Calculator"], tools.call("Calculator", "1 + 1")) == " [Calculator(1 + 1) -> 2]"
    written = write_called(tools["Calendar"], tools.call("Calendar", ""))
    assert written == " [Calendar() -> Today is Monday, January 30, 2023.]"
    assert write_called(tools["Calculator"], tools.call("Calculator", "1 +")) == " [Calculator(1 +) ->]"


@pytest.mark.parametrize("one", [calculator(), calendar()], ids=lambda one: one.name)
def test_shown_examples_are_calls_that_work(one: Tool) -> None:
    for example in one.examples:
        (call,) = find_calls(example, [one.name])
        called = one.call(call.input)
        assert called.error is None
        if one.name == "Calculator":
            assert called.result == call.result
