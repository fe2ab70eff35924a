"""Answers as OpenAI's clients read them: whole, or as a stream of events. Two kinds, chat and completion.

An event is worded by hand and not by way of models: with hundreds of streams most of the server's own time goes here.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from zerogate.inference.tool_use import HeldBack
from zerogate.serving.problems import ApiError, error_body
from zerogate.serving.sampling import Likelihood
from zerogate.tools.render import before_calls, openai_calls, read_calls

if TYPE_CHECKING:
    from zerogate.serving.service import Answering, Line, Piece, Service

LEAST = -9999.0
"""What stands for a log-probability of minus infinity, which JSON cannot say."""


@dataclass
class Reply:
    """How the answers to one request are put.

    Attributes:
        service: whose answers.
        answerings: one per prompt.
        kind: chat or completion.
        tools: names of the tools that an answer may call.
        usage: whether a stream ends with the counts.
        id, created: of the answer.
    """

    service: Service
    answerings: Sequence[Answering]
    kind: Literal["chat", "completion"]
    tools: Collection[str] = ()
    usage: bool = False
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        prefix = "chatcmpl" if self.kind == "chat" else "cmpl"
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.model = self.answerings[0].ask.model
        self.lines = [(answering, line) for answering in self.answerings for line in answering.lines]

    # --- whole -------------------------------------------------------------------------------------------------------

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece.

        Raises:
            ApiError: the engine could not go on.
        """
        choices = []
        for index, (answering, line) in enumerate(self.lines):
            likelihoods: list[Likelihood] = []
            tokens: list[int] = []
            finish = None
            while (piece := await line.next()) is not None:
                answering.came(piece)
                tokens += piece.tokens
                likelihoods += piece.likelihoods
                finish = piece.finish
            text = line.writer.text
            if self.kind == "completion":
                logprobs = self._flat(tokens, likelihoods, 0)
                choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
                continue
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            calls = openai_calls(read_calls(text, self.tools)) if self.tools else []
            if calls:
                finish = "tool_calls" if finish == "stop" else finish
                message |= {"content": before_calls(text) or None, "tool_calls": _named(calls, self.id)}
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._nested(tokens, likelihoods),
                    "finish_reason": finish,
                }
            )
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": self._usage(),
        }

    # --- as a stream -------------------------------------------------------------------------------------------------

    async def events(self, limit: float) -> AsyncIterator[bytes]:
        """The answer as it comes. An error after the beginning is an event, too."""
        outcome = "gone"
        try:
            async with asyncio.timeout(limit):
                async for event in self._pieces():
                    yield event
            if self.usage:
                yield self._event([], usage=self._usage())
            yield b"data: [DONE]\n\n"
            outcome = "answered"
        except TimeoutError:
            outcome = "timeout"
            yield _data(error_body(504, f"The answer took longer than {limit:g} seconds.", "timeout"))
        except ApiError as error:
            outcome = "failed"
            yield _data(error.body())
        finally:
            self.close(outcome)

    def close(self, outcome: str) -> None:
        """Stop what still runs."""
        for answering in self.answerings:
            answering.close(outcome)

    async def _pieces(self) -> AsyncIterator[bytes]:
        if self.kind == "chat":
            for index in range(len(self.lines)):
                yield self._event([_delta(index, {"role": "assistant", "content": "", "refusal": None})])
        if len(self.lines) == 1:
            answering, line = self.lines[0]
            async for event in self._line(0, answering, line):
                yield event
            return
        events: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

        async def read(index: int, answering: Answering, line: Line) -> None:
            try:
                async for event in self._line(index, answering, line):
                    events.put_nowait(event)
                events.put_nowait(None)
            except ApiError as error:
                events.put_nowait(error)

        readers = [asyncio.create_task(read(index, *pair)) for index, pair in enumerate(self.lines)]
        try:
            left = len(readers)
            while left:
                read_one = await events.get()
                if isinstance(read_one, Exception):
                    raise read_one
                if read_one is None:
                    left -= 1
                else:
                    yield read_one
        finally:
            for reader in readers:
                reader.cancel()

    async def _line(self, index: int, answering: Answering, line: Line) -> AsyncIterator[bytes]:
        offset, told = 0, ""
        held: HeldBack | None = None
        if self.tools:
            pieces: list[str] = []
            held = HeldBack(pieces.append)
        while (piece := await line.next()) is not None:
            answering.came(piece)
            text = piece.text
            calls: list[dict[str, Any]] = []
            if held is not None:  # what may be a call waits until it is known to be none
                held(text)
                if piece.finish is not None:
                    calls = openai_calls(read_calls(line.writer.text, self.tools))
                    held.release(len(before_calls(line.writer.text)) if calls else None)
                text = "".join(pieces)
                pieces.clear()
            finish = "tool_calls" if calls and piece.finish == "stop" else piece.finish
            if not (text or calls or finish or piece.likelihoods):
                continue
            if self.kind == "completion":
                logprobs = self._flat(piece.tokens, piece.likelihoods, offset)
                offset += len(text)
                yield self._event([{"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}])
                continue
            told += text
            yield self._delta(index, text, calls, piece, finish)

    def _delta(self, index: int, text: str, calls: list[dict[str, Any]], piece: Piece, finish: str | None) -> bytes:
        delta: dict[str, Any] = {"content": text} if text else {}
        if calls:
            delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(_named(calls, self.id))]
        return self._event([_delta(index, delta, self._nested(piece.tokens, piece.likelihoods), finish)])

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        kind = "chat.completion.chunk" if self.kind == "chat" else "text_completion"
        body = {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}
        if self.usage:
            body["usage"] = usage
        return _data(body)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _usage(self) -> dict[str, Any]:
        read = sum(len(answering.ask.prompt) for answering in self.answerings)
        made = sum(line.tokens for _, line in self.lines)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def _token(self, token: int) -> str:
        return str(self.service.tokenizer.decode([token]))

    def _nested(self, tokens: list[int], likelihoods: list[Likelihood]) -> dict[str, Any] | None:
        """Log-probabilities as chats have them."""
        if not likelihoods:
            return None

        def one(token: int, logprob: float) -> dict[str, Any]:
            text = self._token(token)
            known = "\N{REPLACEMENT CHARACTER}" not in text
            return {
                "token": text,
                "logprob": _number(logprob),
                "bytes": list(text.encode()) if known else None,
            }

        content = [
            one(token, worth.logprob) | {"top_logprobs": [one(*pair) for pair in worth.top]}
            for token, worth in zip(tokens, likelihoods, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _flat(self, tokens: list[int], likelihoods: list[Likelihood], offset: int) -> dict[str, Any] | None:
        """Log-probabilities as completions have them."""
        if not likelihoods:
            return None
        texts = [self._token(token) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        top = [{self._token(token): _number(logprob) for token, logprob in worth.top} for worth in likelihoods]
        return {
            "tokens": texts,
            "token_logprobs": [_number(worth.logprob) for worth in likelihoods],
            "top_logprobs": top if any(top) else None,
            "text_offset": offsets,
        }


def _delta(
    index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, finish: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _number(logprob: float) -> float:
    return logprob if logprob >= LEAST else LEAST  # also what is no number


def _named(calls: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """Calls whose ids are used once, also over several answers."""
    return [{**call, "id": f"call_{answer[-12:]}_{n}"} for n, call in enumerate(calls)]


def _data(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
