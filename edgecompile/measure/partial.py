"""Keeps edgeprofile's samples on disk, so that an interrupted measurement can resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.contract.files.atomic_files import replacing
from edgecompile.contract.files.user_files import check_ours
from edgecompile.measure.rounds import Measured

__all__ = ["PartialFile"]


@dataclass(frozen=True)
class _Size:
    """What was measured at one size."""

    spans: dict[str, Measured]
    complete: bool

    def to_plain(self) -> dict[str, Any]:
        return {"complete": self.complete, "spans": {name: value.to_plain() for name, value in self.spans.items()}}

    @staticmethod
    def of_plain(value: dict[str, Any]) -> _Size:
        spans = {name: Measured.of_plain(span) for name, span in value["spans"].items()}
        return _Size(spans, value["complete"] is True)


class PartialFile:
    """A JSON file beside the profile. What was measured with other settings is left out and overwritten."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """`settings`: all that must be the same for samples to belong together; plain values.

        Raises:
            UserError: a file of another kind is there.
        """
        self._path = path
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._sizes: dict[str, _Size] = {}
        check_ours(path, r'\A\{"settings": ', "measurement in progress", "choose another profile.folder")
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["settings"] == self._settings:
                self._sizes = {name: _Size.of_plain(value) for name, value in document["microbatches"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            pass  # there is none, or none of ours: the measurement starts over
        self.resumed = bool(self._sizes)

    def measured(self, key: str) -> dict[str, Measured]:
        size = self._sizes.get(key)
        return dict(size.spans) if size is not None else {}

    def is_complete(self, key: str) -> bool:
        size = self._sizes.get(key)
        return size is not None and size.complete

    def keep(self, found: Mapping[str, Mapping[str, Measured]], *, complete: bool) -> None:
        for key, spans in found.items():
            begun = {name: value for name, value in spans.items() if value.rounds}
            if begun:
                self._sizes[key] = _Size(begun, complete)
        if not self._sizes:
            return
        sizes = {name: size.to_plain() for name, size in self._sizes.items()}
        document = {"settings": self._settings, "microbatches": sizes}
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
