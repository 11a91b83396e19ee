"""Samples on disk while edgeprofile works, so that a measurement that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile.measure.rounds import Measured

__all__ = ["PartialFile"]


class PartialFile:
    """A JSON file beside the profile. What was measured with other settings is left out and written over."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """`settings`: all that must be the same for samples to belong together; plain values."""
        self._path = path
        self._document: dict[str, Any] = {"settings": json.loads(json.dumps(settings)), "microbatches": {}}
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["settings"] == self._document["settings"]:
                self._document = kept
        except (OSError, ValueError, KeyError, TypeError):
            pass  # there is none, or none of ours: the measurement begins anew
        self.resumed = bool(self._document["microbatches"])

    def measured(self, microbatch: int) -> dict[str, Measured]:
        entry = self._document["microbatches"].get(str(microbatch), {"spans": {}})
        return {name: Measured.of_plain(value) for name, value in entry["spans"].items()}

    def is_complete(self, microbatch: int) -> bool:
        return bool(self._document["microbatches"].get(str(microbatch), {}).get("complete"))

    def keep(self, microbatch: int, found: Mapping[str, Measured], *, complete: bool) -> None:
        spans = {name: value.to_plain() for name, value in found.items() if value.rounds}
        if not spans:
            return
        self._document["microbatches"][str(microbatch)] = {"complete": complete, "spans": spans}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self._document), encoding="utf-8")
            os.replace(temporary, self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
