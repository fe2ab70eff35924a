"""The adapters of a server: a folder of them, read when first asked for, and forgotten again when memory is short.

    pool = AdapterPool(engine, "pocket", budget=2**29)
    pool.scan(Path("adapters"))
    held = pool.hold("fox")         # loads it if need be; it stays until released
    pool.release(held)

A name is only ever looked up among those that a scan found, and never becomes a part of a path. What cannot be used is
listed with the reason, and stops nobody. Requests hold the version they began with: an adapter that is unloaded or read
anew lives on until the last of them ends.

An adapter is attached by PEFT to a *twin* of the base, a copy of its modules that shares all weights, so it is
checked exactly as everywhere else and the running model never changes. Of a zero-init adapter the written-out prompts
go to the engine's store and the twin is let go (it is kept for those that see: images meet the prompts there). An
adapter of another method is a lane: its twin runs its requests, in steps of their own.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from zerogate.adapters.zero_init import ZeroInitConfig
from zerogate.adapters.zero_init.model import ZeroInitModel
from zerogate.bases.adapted import AdapterFiles, attach, read_adapter
from zerogate.errors import UserError
from zerogate.serving.engine import Engine
from zerogate.serving.names import bad_name, base_name, without_folders
from zerogate.serving.prompts import Placed, Written

if TYPE_CHECKING:
    from peft import PeftModel

COMMON = ("ZERO_INIT", "GATED_PREFIX")
"""Methods whose requests share every step."""
LANES = ("LORA", "IA3", "LN_TUNING", "BOTTLENECK", "AFFINE", "BITFIT", "OFT", "BOFT", "VERA", "ADALORA", "LOHA", "LOKR")
"""Methods that are parts of a model: each such adapter has steps of its own."""

INSIDE = "served"
"""What an adapter is called on its own twin."""


class NoRoomError(RuntimeError):
    """All adapters in memory are in use and the budget is spent."""


@dataclass(eq=False)
class Held:
    """One version of an adapter, in memory.

    Attributes:
        name: its name, and `version`, a number that no other version of any adapter has.
        size: bytes that it takes.
        placed: where its prompts lie; None for a lane.
        lane: the model that runs it, or None.
        twin: the base's twin with the adapter, kept for those that see and for lanes.
        config: PEFT's.
        users: how many requests hold it.
        retired: nobody new may hold it; it goes when the last user does.
    """

    name: str
    version: int
    size: int
    config: Any
    placed: Placed | None = None
    lane: nn.Module | None = None
    twin: PeftModel | None = None
    users: int = 0
    retired: bool = False
    used: float = 0.0

    @property
    def key(self) -> bytes:
        """What the pages of its requests are shared by."""
        return b"%d" % self.version

    @property
    def sees(self) -> bool:
        """Whether it takes images."""
        return isinstance(self.config, ZeroInitConfig) and self.config.image_layers is not None


@dataclass(eq=False)
class Entry:
    """What is known of an adapter on the disk.

    Attributes:
        name, folder: what it is called, where it is.
        problem: why it cannot be used; empty if it can, as far as is known before it is loaded.
        files: its configuration and the shapes of its tensors; None where they could not be read.
        template: how its training records were worded.
        pinned: never forgotten to make room.
        named: it was added by name and folder, and no scan puts another in its place.
        held: the version in memory.
        loads: how often it was loaded, and the `seconds` that the last one took.
    """

    name: str
    folder: Path
    problem: str = ""
    files: AdapterFiles | None = None
    template: str | None = None
    pinned: bool = False
    named: bool = False
    held: Held | None = None
    loads: int = 0
    seconds: float = 0.0

    @property
    def public(self) -> str:
        """The problem as clients are told of it."""
        return without_folders(self.problem)

    @property
    def state(self) -> Literal["broken", "loaded", "available"]:
        """In one word."""
        return "broken" if self.problem else "loaded" if self.held is not None else "available"


@dataclass(eq=False)
class AdapterPool:
    """See above. All methods may be called from any thread; those that load take as long as loading does.

    Attributes:
        engine: what runs the requests.
        base: the base's name, for messages.
        budget: bytes that loaded adapters may take together.
        patience: seconds that a load waits for room.
    """

    engine: Engine
    base: str
    budget: int = 2**30
    patience: float = 30.0
    entries: dict[str, Entry] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)  # someone let go
        self._loading = threading.Lock()  # one at a time: a load is short, and order keeps the budget
        self._versions = itertools.count(1)
        self._going: list[Held] = []  # retired, and still in use
        self._evicted = 0

    # --- what there is -----------------------------------------------------------------------------------------------

    def scan(self, folder: Path | None = None) -> list[Entry]:
        """Look through a folder of adapters (again); returns all entries.

        New ones are added, those that are gone are retired, broken ones looked at anew. One in memory stays as it is,
        and one that was added by name stays with its own folder.

        Raises:
            UserError: there is no such folder.
        """
        self.folder = folder or self.folder
        if self.folder is None:
            return list(self.entries.values())
        if not self.folder.is_dir():
            raise UserError(f"the folder of adapters {self.folder} does not exist")
        there = {path.name: path for path in sorted(self.folder.iterdir()) if path.is_dir() and path.name[0] != "."}
        root = self.folder.resolve()
        with self._loading, self._lock:  # a load under way is for an entry that must still be there when it ends
            gone = [n for n, e in self.entries.items() if e.folder.parent.resolve() == root and n not in there]
            for name in gone:
                if not self.entries[name].named:
                    self._retire(self.entries.pop(name))
            for name, path in (there | {e.name: e.folder for e in self.entries.values() if e.named}).items():
                known = self.entries.get(name)
                if known is None:
                    self._add(name, path)
                elif known.held is None:
                    self._add(name, path, pinned=known.pinned, named=known.named)
            return list(self.entries.values())

    def add(self, named: dict[str, Path]) -> None:
        """Add adapters by name, wherever they lie.

        Raises:
            UserError: one cannot be used: who names an adapter wants it.
        """
        for name, folder in named.items():
            entry = self._add(name, folder, named=True)
            if entry.problem:
                raise UserError(f"the adapter {name!r} cannot be served: {entry.problem}")

    def _add(self, name: str, folder: Path, pinned: bool = False, named: bool = False) -> Entry:
        entry = Entry(name, folder, pinned=pinned, named=named)
        try:
            reason = bad_name(name, self.base)
            if reason:
                raise UserError(reason)
            entry.files = read_adapter(folder)
            entry.template = entry.files.template
            self._refuse(entry.files)
        except (UserError, OSError) as error:
            entry.problem = str(error)
        self.entries[name] = entry
        return entry

    def _refuse(self, files: AdapterFiles) -> None:
        """What can be told without loading it. The rest shows when it is loaded."""
        method = files.method
        if method not in (*COMMON, *LANES):
            hint = "; `zerogate convert` makes a zero-init adapter of it" if method == "ADAPTION_PROMPT" else ""
            raise UserError(
                f"adapters of the method {method} are not served{hint}. Served are {', '.join((*COMMON, *LANES))}"
            )
        if files.config.get("attention") == "vanilla":
            raise UserError(
                'attention="vanilla" puts its prompts among the text\'s own keys, which lie in the common cache'
            )
        model: Any = self.engine.model
        config = model.config.get_text_config()
        for name, shape in files.shapes.items():
            parts = name.split(".")
            layer = next((int(part) for part in parts if part.isdigit()), 0)
            wide = name.endswith(".zero_init.prompt") and method == "ZERO_INIT" and shape[-1] != config.hidden_size
            if layer >= config.num_hidden_layers or wide:
                raise UserError(
                    f"it was made for another base ({files.base or 'not recorded'}): its tensor {name} {list(shape)} "
                    f"has no place in {base_name(self.base)}"
                )

    # --- in use ------------------------------------------------------------------------------------------------------

    def holding(self, name: str) -> Held | None:
        """Hold an adapter if it is in memory; never waits.

        Raises:
            KeyError: there is no usable adapter of that name.
        """
        with self._lock:
            entry = self.entries[name]
            if entry.problem:
                raise KeyError(name)
            if entry.held is None:
                return None
            return self._held(entry.held)

    def hold(self, name: str) -> Held:
        """Hold an adapter, and load it first if it is not in memory.

        Raises:
            KeyError: there is no usable adapter of that name.
            UserError: it cannot be loaded; from now on it counts as broken.
            NoRoomError: the budget is spent on adapters in use.
        """
        while True:
            held = self.holding(name) or self.load(name)
            with self._lock:
                if not held.retired:
                    return held
                self._let_go(held)

    def release(self, held: Held) -> None:
        """Let go of an adapter."""
        with self._lock:
            self._let_go(held)

    def load(self, name: str, again: bool = False) -> Held:
        """Load an adapter, `again` even where it is in memory, and hold it.

        Raises:
            KeyError, UserError, NoRoomError: as `hold`; with `again`, what is in memory then stays in use.
        """
        with self._loading:
            with self._lock:
                entry = self.entries[name]
                if entry.held is not None and not again:
                    return self._held(entry.held)
            start = time.perf_counter()
            try:
                files = read_adapter(entry.folder)
                self._refuse(files)
                held, written = self._read(name, files)
                self._make_room(held.size, entry.held if again else None)
            except (UserError, OSError) as error:
                if not again or entry.held is None:
                    entry.problem = str(error)
                raise
            if written is not None:
                held.placed = self.engine.call(lambda: self.engine.store.put(written)).result(timeout=60)
            with self._lock:
                self._retire(entry)
                entry.files, entry.template, entry.problem = files, files.template, ""
                entry.held = held
                entry.loads += 1
                entry.seconds = time.perf_counter() - start
                return self._held(held)

    def unload(self, name: str) -> None:
        """Take an adapter out of memory, once nobody uses it any more. A later request loads it again.

        Raises:
            KeyError: there is no adapter of that name.
        """
        with self._lock:
            self.entries[name].pinned = False
            self._retire(self.entries[name])

    def pin(self, name: str, pinned: bool = True) -> None:
        """Keep an adapter in memory, or no longer.

        Raises:
            KeyError: there is no adapter of that name.
        """
        with self._lock:
            self.entries[name].pinned = pinned

    @property
    def loaded(self) -> list[Held]:
        """All that is in memory, retired versions too."""
        with self._lock:
            return [e.held for e in self.entries.values() if e.held is not None] + self._going

    @property
    def bytes(self) -> int:
        """What loaded adapters take."""
        return sum(held.size for held in self.loaded)

    @property
    def evicted(self) -> int:
        """How many were forgotten to make room."""
        return self._evicted

    # --- inside ------------------------------------------------------------------------------------------------------

    def _held(self, held: Held) -> Held:
        held.users += 1
        held.used = time.monotonic()
        return held

    def _let_go(self, held: Held) -> None:
        held.users -= 1
        assert held.users >= 0
        if held.retired and not held.users:
            self._going.remove(held)
            self._drop(held)
        self._room.notify_all()

    def _retire(self, entry: Entry) -> None:
        held, entry.held = entry.held, None
        if held is None:
            return
        held.retired = True
        if held.users:
            self._going.append(held)
        else:
            self._drop(held)
        self._room.notify_all()

    def _drop(self, held: Held) -> None:
        placed, held.twin, held.lane = held.placed, None, None
        if placed is not None:
            self.engine.call(lambda: self.engine.store.drop(placed))

    def _make_room(self, wanted: int, replaced: Held | None) -> None:
        """Forget the least recently used until there is room; wait for those in use."""
        if wanted > self.budget:
            raise UserError(
                f"it takes {wanted / 2**20:.1f} MiB, and all adapters together may take {self.budget / 2**20:.1f} MiB"
            )
        end = time.monotonic() + self.patience
        with self._room:
            while True:
                leaving = replaced.size if replaced is not None and not replaced.users else 0
                if self.bytes - leaving + wanted <= self.budget:
                    return
                idle = [
                    (entry.held.used, entry.name)
                    for entry in self.entries.values()
                    if entry.held is not None and entry.held is not replaced
                    if not entry.held.users and not entry.pinned
                ]
                if idle:
                    self._retire(self.entries[min(idle)[1]])
                    self._evicted += 1
                elif not self._room.wait(timeout=max(0.0, end - time.monotonic())):
                    raise NoRoomError(
                        f"the adapters in memory are all in use or pinned, and their budget of "
                        f"{self.budget / 2**20:.0f} MiB is spent; try again, or give more memory to adapters"
                    )

    def _read(self, name: str, files: AdapterFiles) -> tuple[Held, Written | None]:
        model = self.engine.model
        adapted = attach(twin(model), {INSIDE: files}, base_name(self.base))
        tuner: Any = adapted.base_model
        config = adapted.peft_config[INSIDE]
        whole = bool(getattr(config, "modules_to_save", None))  # configurations of PEFT's own methods may lack it
        shared = self._shared()
        if not all(bool(t.isfinite().all()) for t in adapted.parameters() if id(t) not in shared):
            raise UserError("some of its numbers are infinite or none at all (NaN): its training has diverged")
        version = next(self._versions)
        if isinstance(tuner, ZeroInitModel) and not whole:
            written = written_out(tuner)
            size = _bytes(t for pair in written.values() for t in pair)
            held = Held(name, version, size, config)
            if held.sees:
                held.twin = adapted
                held.size += self._own(adapted)
            return held, written
        lane = adapted.get_base_model()
        return Held(name, version, self._own(adapted), config, lane=lane, twin=adapted), None

    def _shared(self) -> set[int]:
        return {id(t) for t in (*self.engine.model.parameters(), *self.engine.model.buffers())}

    def _own(self, adapted: PeftModel) -> int:
        shared = self._shared()
        return _bytes(t for t in (*adapted.parameters(), *adapted.buffers()) if id(t) not in shared)


def twin(model: nn.Module) -> Any:
    """A copy of a model's modules that shares its tensors: what is attached to one does not touch the other."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def written_out(tuner: ZeroInitModel, features: torch.Tensor | None = None) -> dict[int, Any]:
    """What a zero-init adapter adds, by layer index; `features` [n, F] are of the images of one request."""
    model: Any = tuner.model
    found = tuner.written_out(INSIDE, model.dtype, features)
    return {int(model.get_submodule(name).layer_idx): pair for name, pair in found.items()}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
