"""Tools that a model may call: one registry, one file per tool.

from zerogate.tools import Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar

tools = Toolbox([calculator(), calendar()])
tools.call("Calculator", "400 / 1400").result        # "0.29"
"""

from zerogate.tools.registry import Toolbox
from zerogate.tools.tool import Called, Limits, Sampling, Tool, ToolError

__all__ = ["Called", "Limits", "Sampling", "Tool", "ToolError", "Toolbox"]
