"""The worlds that a recipe can name in place of a file."""

from zerogate.toolform import pocket, pocket_search
from zerogate.toolform.world import World

WORLDS: dict[str, World] = {"pocket": pocket.WORLD, "pocket-search": pocket_search.WORLD}
"""By their names."""
