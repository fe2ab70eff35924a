"""From files to token ids: formats become records, templates become segments, segments become ids with a loss mask."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zerogate.data.encode import Encoded, EncodeReport, encode_records, prompt_ids
    from zerogate.data.load import Data, load_data
    from zerogate.data.records import Record, Turn
    from zerogate.data.section import DataSection
    from zerogate.data.templates import alpaca_prompt

_PLACES = {
    "Data": "load",
    "DataSection": "section",
    "EncodeReport": "encode",
    "Encoded": "encode",
    "Record": "records",
    "Turn": "records",
    "alpaca_prompt": "templates",
    "encode_records": "encode",
    "load_data": "load",
    "prompt_ids": "encode",
}
__all__ = [
    "Data",
    "DataSection",
    "EncodeReport",
    "Encoded",
    "Record",
    "Turn",
    "alpaca_prompt",
    "encode_records",
    "load_data",
    "prompt_ids",
]


def __getattr__(name: str) -> Any:
    """The public names, imported when the first of them is used: reading rows of JSON needs no transformers."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
