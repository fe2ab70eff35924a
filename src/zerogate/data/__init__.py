"""From files to token ids: formats become records, templates become segments, segments become ids with a loss mask."""

from zerogate.data.encode import Encoded, EncodeReport, encode_records, prompt_ids
from zerogate.data.load import Data, load_data
from zerogate.data.records import Record, Turn
from zerogate.data.section import DataSection
from zerogate.data.templates import alpaca_prompt

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
