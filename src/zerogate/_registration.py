"""Registers this package's methods with PEFT as soon as PEFT itself is imported, and not before.

PEFT brings torch and transformers, some seconds of importing. `zerogate --help`, tab completion and a mistyped option
should not wait for that, while `import zerogate` followed by `PeftModel.from_pretrained(...)` must know our methods,
whichever of the two packages came first. So, if PEFT is not there yet, its import is watched for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_peft() -> None:
    """Register now if PEFT is imported, else when it will be."""
    if "peft" in sys.modules:
        importlib.import_module("zerogate.adapters")
    else:
        sys.meta_path.insert(0, _PeftWatcher())


class _PeftWatcher(MetaPathFinder):
    """Finds nothing itself; gives PEFT's own spec back with a loader that registers us afterwards."""

    def __init__(self) -> None:
        self.asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Also called by those who only ask whether PEFT is installed, so the watcher stays in place."""
        if fullname != "peft" or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec("peft")
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader, self)
        return spec


class _ThenRegister(Loader):
    """PEFT's loader, and the registration after it."""

    def __init__(self, loader: Loader, watcher: _PeftWatcher) -> None:
        self.loader = loader
        self.watcher = watcher

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader itself."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run PEFT's module, then import our tuners."""
        if self.watcher in sys.meta_path:
            sys.meta_path.remove(self.watcher)
        # From here on PEFT has its own loader again: importlib.resources and others look for it.
        spec = module.__spec__
        assert spec is not None
        spec.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        importlib.import_module("zerogate.adapters")
