"""Short texts of the page: notices under a conversation, names in the menus."""

from __future__ import annotations

from html import escape

from zerogate.errors import UserError
from zerogate.serving.names import without_folders
from zerogate.serving.problems import ApiError
from zerogate.serving.service import Service


def menu(service: Service) -> list[tuple[str, str]]:
    """What can be asked, as (shown, name): the base first, those that see marked."""
    seen = seeing(service)
    base = [(f"{service.base} (the base)", service.base)]
    names = [name for name in service.models() if name != service.base]
    return base + [(f"{name} (sees images)" if name in seen else name, name) for name in names]


def seeing(service: Service) -> set[str]:
    """The names of those that take images."""
    return {name for name in service.models() if service.sees(name)}


def notice(text: str) -> str:
    """A remark."""
    return f'<div class="notice" role="status">{escape(text)}</div>'


def trouble(error: ApiError | UserError | str) -> str:
    """What went wrong, and where there is one, the way out."""
    message = error.message if isinstance(error, ApiError) else str(error)
    message = without_folders(message)
    hints = {
        "rate_limit_exceeded": " It is busy: wait a moment and send it again.",
        "context_length_exceeded": " Write less, take a shorter persona, or begin a new conversation.",
        "model_not_found": " Look through the adapters again (\N{CLOCKWISE OPEN CIRCLE ARROW}) and choose another.",
        "timeout": " Ask for fewer tokens, or start the server with a longer --timeout.",
    }
    if isinstance(error, ApiError):
        message += hints.get(error.code or "", "")
        if error.code == "invalid_image" and "takes no images" in message:
            message += " Choose one that is marked as seeing, or take the picture away."
    message = message[:1].upper() + message[1:]
    return f'<div class="notice" role="alert"><span class="bad">{escape(message)}</span></div>'
