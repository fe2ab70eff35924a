"""A reader for `zerogate.tools.answers.reader` that asks a language model behind an OpenAI-compatible endpoint, such as
`zerogate serve`.

    reader(engine, endpoint("http://127.0.0.1:8000/v1"))
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from zerogate.errors import UserError
from zerogate.tools.answers import Read
from zerogate.tools.tool import ToolError

SECONDS = 20.0
_NONE = "none"
_ASKED = (
    "Answer the question in a few words of the passage. If the passage does not say it, answer none.\n\n"
    "Passage: {passage}\n\nQuestion: {question}"
)


def endpoint(url: str, model: str | None = None) -> Read:
    """A model that is asked for the few words of a passage that answer a question.

    An endpoint does not say how sure it is, so all answers count alike and the best passage's is taken. The key, where
    one is needed, stands in `OPENAI_API_KEY`.

    Args:
        url: such as http://127.0.0.1:8000/v1.
        model: which to ask; by default the first that the endpoint lists.

    Raises:
        UserError: the package openai is not installed, or nobody answers there.
    """
    if find_spec("openai") is None:
        raise UserError("a reader behind an endpoint needs the package openai: pip install 'zerogate[judge]'")
    from openai import OpenAI, OpenAIError

    client = OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none", timeout=SECONDS, max_retries=1)
    try:
        name = model or next(iter(client.models.list())).id
    except (OpenAIError, StopIteration) as error:
        raise UserError(f"the reader {url} cannot be asked for its models: {error}") from error

    def read(question: str, passage: str) -> tuple[str, float] | None:
        said = _ASKED.format(passage=passage, question=question)
        try:
            reply = client.chat.completions.create(
                model=name, messages=[{"role": "user", "content": said}], temperature=0, max_tokens=30
            )
        except OpenAIError as error:
            raise ToolError(f"the reader {url} failed: {error}") from error
        answer = (reply.choices[0].message.content or "").strip() if reply.choices else ""
        return None if answer.strip(".").lower() in ("", _NONE) else (answer, 0.0)

    return read
