"""Frozen bases: `load_base` opens one, `load_adapted` opens one with its adapters. What is in them is in `load.py`."""

from zerogate.bases.adapted import load_adapted, recorded_base
from zerogate.bases.load import base_path, load_base

__all__ = ["base_path", "load_adapted", "load_base", "recorded_base"]
