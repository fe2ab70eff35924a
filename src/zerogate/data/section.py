"""The `data:` section of a recipe: which records, how they are worded, which are held out."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from zerogate.data.formats import FormatName
from zerogate.data.layouts import LayoutName
from zerogate.data.templates import TemplateName


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"give a number of records or a file, not {str(value).lower()}")
    return value


HeldOut = Annotated[Annotated[int, Field(ge=1)] | str | None, BeforeValidator(_no_bool)]


class SetAside(BaseModel):
    """Records that are neither learned nor measured on: what another run holds out of the same file.

    Attributes:
        held_out, split_seed, limit: as that run's data section has them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    held_out: Annotated[int, Field(ge=1)]
    split_seed: int = 0
    limit: Annotated[int, Field(ge=1)] | None = None


class DataSection(BaseModel):
    """Where the records come from and what becomes of them.

    Attributes:
        path: a JSON, JSONL or Parquet file (also `.xz`, `.gz`, `.bz2`), a folder, a data set id on the Hub, or
            `pocket` for the embedded base's own instruction data (`pocket-tuning`: its training half only, a part of
            it held out, for choosing settings). For the published data sets with images: a folder or an archive.
        format: the layout of the records; `auto` looks at the first. Published data sets (`easy_vqa`, `flickr8k`, ...)
            are named.
        split: which split of a folder, a Hub data set or a published one (there also a part: `train[:90%]`).
        template: `alpaca`, the tokenizer's `chat` template, or `plain` for prompt and completion as they stand.
            `auto` takes `plain` for prompt/completion files, `chat` for conversations if the tokenizer has a
            template, else `alpaca`.
        max_length: most tokens in a sequence.
        too_long: `truncate` longer ones from the right, or `drop` them.
        nothing_to_learn: `refuse` to start when rows have no answer to learn, or `drop` those rows.
        held_out: how many records to keep for measuring, or a file of them, or nothing.
        split_seed: picks the held-out records.
        limit: take only the first so many records.
        set_aside: what another run holds out of the same file, to be left alone by this one. A comparison's sweep has
            here what its results are measured on.
        balance: of the training records keep, for each question, every answer as often as the rarest one. For
            questions asked of many images, where the frequent answer would be learned in place of looking
            ("Making the V in VQA Matter", arXiv 1612.00837).
        images: the folder (or archive) that the records' relative image paths start from, if it is not the data's own.
        use_images: false leaves the images out: the same records for a model that sees nothing.
        bad_images: `refuse` to start when images cannot be read, or `drop` their rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    format: Literal["auto"] | FormatName | LayoutName = "auto"
    split: str = "train"
    template: Literal["auto"] | TemplateName = "auto"
    max_length: Annotated[int, Field(ge=2)] = 512
    too_long: Literal["truncate", "drop"] = "truncate"
    nothing_to_learn: Literal["refuse", "drop"] = "refuse"
    held_out: HeldOut = None
    split_seed: int = 0
    limit: Annotated[int, Field(ge=1)] | None = None
    set_aside: SetAside | None = None
    balance: bool = False
    images: str | None = None
    use_images: bool = True
    bad_images: Literal["refuse", "drop"] = "refuse"
