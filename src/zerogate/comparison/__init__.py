"""Compare methods on one base and one data set: `zerogate compare recipe.yaml`, or `compare(load_comparison(...))`."""

from zerogate.comparison.recipe import Comparison, load_comparison
from zerogate.comparison.run import compare

__all__ = ["Comparison", "compare", "load_comparison"]
