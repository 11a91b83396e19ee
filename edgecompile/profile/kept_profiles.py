"""The user's own profiles of this machine, which profile=auto has measured: FOLDER/DEVICE-MODEL-KEY-SIZES.yaml.

FOLDER is $XDG_CACHE_HOME/edgecompile/profiles, else ~/.cache/edgecompile/profiles; everything in it can be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.profile.profile_file import DeviceProfile, read_profile

__all__ = ["AskedSizes", "ProfileCache", "kept_folder"]

_MOST_DISTURBED = 0.25
"""Of the samples: a profile that was disturbed more is measured again when it is asked for next."""


def kept_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "edgecompile" / "profiles"


@dataclass(frozen=True, kw_only=True)
class AskedSizes:
    """What messages a profile was measured for, though some of them may have been too slow to be measured."""

    microbatch: int
    least: int
    """Extents; both 0 where they do not vary."""
    most: int

    @property
    def words(self) -> str:
        return f"b{self.microbatch}-{self.least}-{self.most}"

    def covers(self, other: AskedSizes) -> bool:
        alike = (self.most == 0) == (other.most == 0)
        return alike and self.microbatch >= other.microbatch and self.least <= other.least and self.most >= other.most

    @staticmethod
    def of_name(name: str) -> AskedSizes | None:
        """Of a file's name; None: it is of another kind."""
        found = re.search(r"-b(\d+)-(\d+)-(\d+)\.yaml$", name)
        if found is None:
            return None
        microbatch, least, most = map(int, found.groups())
        return AskedSizes(microbatch=microbatch, least=least, most=most)


@dataclass(frozen=True)
class ProfileCache:
    """Profiles of one model on one kind of device, measured in one way on one machine."""

    folder: Path
    names: str
    """Of the device and the model."""
    settings: Mapping[str, Any]
    """All that must be the same for a profile to fit; plain values."""

    @property
    def _begin(self) -> str:
        key = hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()[:16]
        return re.sub(r"[^\w.+-]", "_", self.names)[:80] + f"-{key}"

    def path(self, asked: AskedSizes) -> Path:
        return self.folder / f"{self._begin}-{asked.words}.yaml"

    def find(self, asked: AskedSizes) -> Path | None:
        """A profile that was measured in peace for these sizes or more."""
        for path in _files(self.folder):
            own = AskedSizes.of_name(path.name) if path.name.startswith(self._begin) else None
            if own is None or not own.covers(asked):
                continue
            if _in_peace(path) is not None:
                return path
        return None

    def others(self) -> Iterator[DeviceProfile]:
        """Those of other models too that were measured in peace, the newest first."""
        for path in _files(self.folder):
            found = _in_peace(path)
            if found is not None:
                yield found


def _files(folder: Path) -> list[Path]:
    """The newest first; none where there is no such folder."""
    try:
        found = [(path.stat().st_mtime, path) for path in folder.glob("*.yaml")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]


def _in_peace(path: Path) -> DeviceProfile | None:
    """None where it was disturbed, or is not a whole profile of this version: it is measured again."""
    try:
        found = read_profile(path)
    except (UserError, OSError):
        return None
    return found if max(item.disturbed for item in found.microbatches) <= _MOST_DISTURBED else None
