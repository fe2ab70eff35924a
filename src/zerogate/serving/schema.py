"""What requests and answers look like on the wire: OpenAI's, field by field, and as strict.

Unknown fields are errors, as they are there; types are not guessed (`"temperature": "0.5"` is one). Fields that OpenAI
knows and this server has no use for are taken and ignored where that changes no answer, and refused where it would.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_TEXT = 1_000_000
"""Characters of one text. What the context has room for is much less; this bounds the work of finding that out."""

Text = Annotated[str, Field(max_length=MOST_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream has besides the answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = Field(None, description="Ignored.")


class Common(Strict):
    """What both kinds of requests have.

    Temperature and nucleus are the paper's where a request names none, as everywhere in zerogate.
    """

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0.1 by default; 0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="0.75 by default.")
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    user: Text | None = Field(None, description="Ignored.")
    # Not OpenAI's:
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Keep this many of the likeliest tokens; 0, the default, keeps all. Not OpenAI's."
    )
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="Above 1, tokens that have been seen get less likely. Not OpenAI's."
    )
    ignore_eos: bool | None = Field(None, description="Go on to the length limit: for measurements. Not OpenAI's.")


class TextPart(Strict):
    """A text in a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(Strict):
    """Where an image is."""

    url: str = Field(description="A data: URI with the image itself. Nothing is fetched.")
    detail: Literal["auto", "low", "high"] | None = Field(None, description="Ignored.")


class ImagePart(Strict):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


TextParts = Annotated[list[TextPart], Field(min_length=1, max_length=256)]
Parts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]], Field(min_length=1, max_length=256)
]


class CalledFunction(Strict):
    """What a call calls; `arguments` is JSON text."""

    name: Name
    arguments: Text


class ToolCall(Strict):
    """A call that the assistant made."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"]
    function: CalledFunction


class SystemMessage(Strict):
    """Who the assistant is to be."""

    role: Literal["system", "developer"]
    content: Text | TextParts
    name: Name | None = None


class UserMessage(Strict):
    """What the user says, and shows."""

    role: Literal["user"]
    content: Text | Parts
    name: Name | None = None


class AssistantMessage(Strict):
    """What the assistant said."""

    role: Literal["assistant"]
    content: Text | TextParts | None = None
    name: Name | None = None
    refusal: Text | None = None
    # The client's own `message.model_dump()` has these, too.
    annotations: list[Any] | None = Field(None, description="Ignored.")
    audio: dict[str, Any] | None = Field(None, description="Ignored.")
    function_call: None = Field(None, description="Only null: calls are in tool_calls.")
    tool_calls: Annotated[list[ToolCall], Field(min_length=1, max_length=64)] | None = None


class ToolMessage(Strict):
    """What a call gave."""

    role: Literal["tool"]
    content: Text | TextParts
    tool_call_id: Annotated[str, Field(max_length=256)]
    name: Name | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class Function(Strict):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Ignored: arguments are as the model writes them.")


class Tool(Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class ResponseFormat(Strict):
    """Text is all there is."""

    type: Literal["text"]


class ChatRequest(Common):
    """A request to `/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="256 by default.")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto"] | None = Field(None, description="A call cannot be forced.")
    parallel_tool_calls: bool | None = Field(None, description="Ignored.")
    response_format: ResponseFormat | None = None
    metadata: dict[str, str] | None = Field(None, description="Ignored.")
    store: bool | None = Field(None, description="Only false: nothing is stored.")


Prompt = (
    Text
    | Annotated[list[Text], Field(min_length=1, max_length=64)]
    | Annotated[list[TokenId], Field(min_length=1, max_length=MOST_TEXT)]
    | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=64)]
)


class CompletionRequest(Common):
    """A request to `/v1/completions`: texts, or token ids, to go on with as they stand."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool | None = Field(None, description="Only false: prompts are not repeated.")
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: None = Field(None, description="Text is written at the end only.")


class LoadRequest(Strict):
    """How an adapter is to be loaded."""

    pinned: bool | None = Field(None, description="Keep it in memory, or no longer.")


class ErrorBody(BaseModel):
    """What went wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """An answer that is an error."""

    error: ErrorBody
