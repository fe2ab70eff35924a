"""The engine: a loaded model that answers prompts, many in one batch or one as a stream, each with the adapter it
asks for.

    from zerogate.inference import Engine, Sampling
    engine = Engine.load("pocket", {"demo": "runs/demo/best"})
    print(engine.ask("Where does the fox live?").text)

The engine knows token ids, adapters and what those are shown. How a question becomes a prompt is
`zerogate.data.templates`' affair, who is speaking `chat.py`'s, and files `batch.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from peft import PeftModel
from transformers import LogitsProcessorList

from zerogate.bases import load_adapted, load_base
from zerogate.bases.adapted import read_adapter, recorded_template
from zerogate.bases.decode import context_length, decode_batch, end_tokens
from zerogate.bases.load import find_base
from zerogate.bases.sampling import RowSampler, Sampling
from zerogate.data import Turn, prompt_ids
from zerogate.data.image_fields import word_markers
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.inference.streaming import TextStream, cut_at_stop
from zerogate.vision.adapter_encoders import AdapterEncoders, arguments
from zerogate.vision.source import ImageSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "__base__"
"""The name of "no adapter", as PEFT has it."""


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: without end token and stop string.
        ids: the new token ids, as generated.
        finish: `end` (the model ended it), `stop` (a stop string), `length` (no room left), `interrupted` (by the
            user).
    """

    text: str
    ids: list[int]
    finish: Literal["end", "stop", "length", "interrupted"]


class Engine:
    """A model in eval mode, its tokenizer and its adapters."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        templates: Mapping[str, str] | None = None,
    ) -> None:
        """Take a loaded model; `adapters` are those it carries, `templates` how each was taught to be asked."""
        self.model: Any = model
        self.templates = dict(templates or {})
        self.tokenizer = tokenizer
        self.adapters = list(model.peft_config) if isinstance(model, PeftModel) else []
        self.encoders = AdapterEncoders(model)

    @classmethod
    def load(cls, base: str, adapters: Mapping[str, str | Path] | None = None, **options: Any) -> Engine:
        """Load a base and its adapters; options as for `zerogate.bases.load_base`.

        Raises:
            UserError: see `load_base` and `load_adapted`.
        """
        model: Any
        model, tokenizer = load_adapted(base, adapters, **options) if adapters else load_base(base, **options)
        folder = find_base(base).folder
        found = {name: read_adapter(path).template for name, path in (adapters or {}).items()}
        found[BASE] = recorded_template(folder) if folder is not None else None
        return cls(model, tokenizer, {name: template for name, template in found.items() if template is not None})

    @property
    def context(self) -> int | None:
        """How many tokens a prompt and its answer may have together; None where the base has no limit."""
        return context_length(self.model)

    def template_for(self, adapter: str | None = None) -> TemplateName:
        """How an adapter was taught to be asked; if that is not recorded, the tokenizer's chat template or Alpaca's."""
        recorded = self.templates.get(self.resolve(adapter))
        if recorded is not None:
            return cast("TemplateName", recorded)
        return "alpaca" if self.tokenizer.chat_template is None else "chat"

    def prompt(
        self,
        instruction: str,
        input: str = "",
        template: TemplateName | None = None,
        adapter: str | None = None,
        images: int = 0,
    ) -> list[int]:
        """The ids of a question, worded as training worded it for this adapter.

        Args:
            instruction: the question.
            input: what it is about: Alpaca's second field.
            template: how to word it instead.
            adapter: as in `answer`.
            images: how many are shown with it; the marker `<image>` then stands for one, as in training's records.

        Raises:
            UserError: there are markers, but not as many as images.
        """
        instruction, input = word_markers((instruction, input), images)
        return prompt_ids([Turn("user", instruction, input)], template or self.template_for(adapter), self.tokenizer)

    def ask(
        self,
        instruction: str,
        input: str = "",
        sampling: Sampling | None = None,
        adapter: str | None = None,
        images: Sequence[ImageSource] = (),
    ) -> Answer:
        """Answer one question; `adapter` as in `answer`, `images` are what it is about.

        Raises:
            UserError: as `answer` and `prompt`.
        """
        prompt = self.prompt(instruction, input, adapter=adapter, images=len(images))
        return self.answer([prompt], sampling or Sampling(), [adapter], images=[images])[0]

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        adapters: Sequence[str | None] | None = None,
        seeds: Sequence[int] | None = None,
        images: Sequence[Sequence[ImageSource]] | None = None,
    ) -> list[Answer]:
        """Answer a batch of prompts in one pass. Each answer is the one its prompt would get alone.

        Args:
            prompts: token ids, one sequence per row.
            sampling: settings for all rows.
            adapters: per row the name of an adapter, `__base__` for none, or None for the first adapter, if any.
            seeds: one per row; by default every row has `sampling.seed`.
            images: per row what its adapter is shown, possibly nothing.

        Raises:
            UserError: an unknown adapter, a prompt without room for an answer, an image whose adapter takes none, or
                one that cannot be read.
        """
        names = [self.resolve(name) for name in (adapters or [None] * len(prompts))]
        seeds = list(seeds or [sampling.seed] * len(prompts))
        features = self.encoders.features(names, images or [()] * len(prompts))
        answers: dict[int, Answer] = {}
        for rows in self._groups(names, [len(prompt) for prompt in prompts], sampling.max_new_tokens):
            with self._adapted([names[row] for row in rows]) as extra:
                extra |= arguments([features[row] for row in rows])
                ids = self._decode([prompts[row] for row in rows], sampling, [seeds[row] for row in rows], **extra)
            answers |= dict(zip(rows, (self._finish(row_ids, sampling) for row_ids in ids), strict=True))
        return [answers[row] for row in range(len(prompts))]

    def stream(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        on_text: Callable[[str], None],
        adapter: str | None = None,
        before: Sequence[int] = (),
        images: Sequence[ImageSource] = (),
    ) -> Answer:
        """Answer one prompt and hand out its text as it comes. Ctrl-C ends the answer and keeps what is there.

        Args:
            prompt: token ids.
            sampling: the settings.
            on_text: called with each piece of text.
            adapter: as in `answer`.
            before: ids of an answer to go on with, after the prompt; at least one token is then added.
            images: as for a row of `answer`.

        Raises:
            UserError: as `answer`.
        """
        name = self.resolve(adapter)
        stream = TextStream(self.tokenizer, on_text, sampling.stop, before)
        try:
            features = self.encoders.features([name], [images])
            with self._adapted([name]) as extra:
                extra |= arguments(features)
                ids = self._decode(
                    [[*prompt, *before]],
                    sampling,
                    [sampling.seed],
                    streamer=stream,
                    min_new_tokens=1 if before else 0,
                    **extra,
                )[0]
        except KeyboardInterrupt:
            return Answer(stream.text(), stream.ids, "interrupted")
        finish = self._finish(ids, sampling).finish
        return Answer(stream.text(), ids, finish)

    def _decode(self, prompts: list[Any], sampling: Sampling, seeds: Sequence[int], **extra: Any) -> list[list[int]]:
        if not sampling.greedy:
            extra["logits_processor"] = LogitsProcessorList([RowSampler(sampling, seeds)])
        return decode_batch(
            self.model,
            self.tokenizer,
            prompts,
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=sampling.repetition_penalty,
            stop=sampling.stop,
            **extra,
        )

    def _finish(self, ids: list[int], sampling: Sampling) -> Answer:
        text, stopped = cut_at_stop(str(self.tokenizer.decode(ids, skip_special_tokens=True)), sampling.stop)
        if stopped:
            return Answer(text, ids, "stop")
        ended = bool(ids) and ids[-1] in end_tokens(self.model, self.tokenizer)
        return Answer(text, ids, "end" if ended else "length")

    def resolve(self, name: str | None) -> str:
        if name is None:
            return self.adapters[0] if self.adapters else BASE
        if name not in (*self.adapters, BASE):
            known = ", ".join([*self.adapters, BASE])
            raise UserError(f"there is no adapter {name!r} here; there are: {known}")
        return name

    def _groups(self, names: list[str], lengths: list[int], max_new_tokens: int) -> Iterator[list[int]]:
        """Rows that can share a pass: all, unless a method cannot mix or a long prompt would shorten the rest."""
        limit = self.context
        alone = {row for row, length in enumerate(lengths) if limit is not None and length + max_new_tokens > limit}
        yield from ([row] for row in sorted(alone))
        together = [row for row in range(len(names)) if row not in alone]
        # Most PEFT methods take a different adapter for each row without complaint, and then use one for all.
        if len({*names}) == 1 or all(self._mixable(name) for name in {*names} - {BASE}):
            groups = [together]
        else:
            groups = [[row for row in together if names[row] == name] for name in dict.fromkeys(names)]
        for group in groups:
            if group:
                yield from self._unpadded(group, lengths) if self._prompts(names[group[0]]) else [group]

    def _mixable(self, name: str) -> bool:
        config = self.model.peft_config[name]
        method = str(config.peft_type).removeprefix("PeftType.")
        if method == "LORA":  # PEFT mixes no norms, and not where one adapter has whole modules and another has none
            return not any(other.modules_to_save for other in self.model.peft_config.values())
        return method in ("BOTTLENECK", "BITFIT") or (method == "ZERO_INIT" and config.attention == "zero_init")

    def _prompts(self, name: str) -> bool:
        """Whether an adapter puts virtual tokens before the text: PEFT puts them before the padding, too, and so
        further away from the text of a padded row than it was trained with."""
        return name != BASE and bool(self.model.peft_config[name].is_prompt_learning)

    @staticmethod
    def _unpadded(rows: list[int], lengths: list[int]) -> list[list[int]]:
        """The rows by length, so that none is padded."""
        return [[row for row in rows if lengths[row] == length] for length in dict.fromkeys(lengths[r] for r in rows)]

    @contextmanager
    def only(self, adapter: str | None) -> Iterator[None]:
        """Have one adapter in use, or none (`__base__`), for what calls the model directly.

        Raises:
            UserError: there is no such adapter.
        """
        with self._adapted([self.resolve(adapter)]):
            yield

    @contextmanager
    def _adapted(self, names: list[str]) -> Iterator[dict[str, Any]]:
        """Make the rows' adapters the ones in use; yields what `generate` needs to be told for it."""
        if len(set(names)) > 1:
            yield {"adapter_names": names}
            return
        name = names[0]
        if name != BASE and self.model.active_adapter != name:
            self.model.set_adapter(name)
            self.model.requires_grad_(False)  # PEFT switches an adapter on for training, too
        with self.model.disable_adapter() if name == BASE and self.adapters else nullcontext():
            yield {}
