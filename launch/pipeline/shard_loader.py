"""Keeps a process's one loaded shard from epoch to epoch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from edgecompile.contract.plan import Stage
from edgecompile.execution.allocator import large_blocks_apart
from edgecompile.terminal.libraries import import_libraries
from edgelaunch.common.rank_options import RankOptions
from edgelaunch.pipeline.stage_shard import load_shard, load_shard_soon

__all__ = ["Loader"]


class Loader:
    def __init__(self, options: RankOptions) -> None:
        self._options = options
        self.set_ready: Callable[[bool], None] = lambda ready: None
        """Told whether the rank has its shard; while one is loaded, Python stands still."""
        self._loaded: tuple[str, Callable[..., Any]] | None = None

    def load(self, stage: Stage) -> Callable[..., Any]:
        """The stage's module; the one before, where that is another, is let go of first.

        Raises:
            UserError: as load_shard, or a library that the plan names cannot be imported.
        """
        if self._loaded is not None and self._loaded[0] == stage.sha256:
            return self._loaded[1]
        if self._loaded is not None:
            self.set_ready(False)
            self._loaded = None
            gc.collect()
        import_libraries(self._options.plan.runtime.imports)
        plan = self._options.plan
        # a text's tokens follow each other: whatever is put off makes one of them late
        load = load_shard if plan.generation is not None else load_shard_soon
        with large_blocks_apart():
            module = load(stage, self._options.folder, self._options.device, plan.runtime.prepack)
        self._loaded = (stage.sha256, module)
        first, last = stage.units
        threads = f"{self._options.threads} thread" + ("s" if self._options.threads > 1 else "")
        text = f"stage {stage.stage}, units {first}-{last}, {self._options.device}, {threads}: ready"
        self._options.log(text, event="ready")
        self.set_ready(True)
        return module
