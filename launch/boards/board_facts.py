"""Facts of a machine, as its agent says them: kind, cores, memory, versions. Imports no torch."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgelaunch.common.software import PROTOCOL
from edgelaunch.process.cores import available_cores

__all__ = ["BoardFacts", "kind_of", "own_facts"]

KINDS = {
    "Raspberry Pi 5": "raspberry_pi_5",
    "Raspberry Pi Compute Module 5": "raspberry_pi_5",
    "Raspberry Pi 4": "raspberry_pi_4",
    "Raspberry Pi Compute Module 4": "raspberry_pi_4",
    "AGX Orin": "jetson_agx_orin",
    "Orin NX": "jetson_orin_nx",
    "Orin Nano.*Super": "jetson_orin_nano_super",
    "Orin Nano": "jetson_orin_nano",
    "AGX Xavier|^Jetson-AGX$": "jetson_agx_xavier",
    "Xavier NX": "jetson_xavier_nx",
    "Jetson[ -]TX2|quill": "jetson_tx2",
    "Jetson Nano": "jetson_nano",
    "MinnowBoard": "minnowboard",
    "RCC-VE": "rcc_ve",
    r"\bN100\b": "intel_n100",
}
"""Names of conf/board by what a device tree, a mainboard or a processor calls itself; the first that fits."""
LAPTOP, OTHER = "laptop_cpu", "local"
MOST_LETTERS = 200


@dataclass(frozen=True, kw_only=True)
class BoardFacts:
    name: str
    kind: str
    """Of conf/board."""
    model: str
    """As the board calls itself."""
    architecture: str
    cores: int
    memory_bytes: int
    protocol: int
    edgecompile: str
    torch: str
    """Empty: not installed."""
    python: str
    clock_s: float
    """Since 1970."""
    compiles: bool
    """Whether the extra `compile` is installed, which edgeprofile needs."""
    busy: str = ""
    """What it runs, in words; empty where it runs nothing."""

    def values(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def read(values: Mapping[str, Any]) -> BoardFacts | None:
        """None where these are other values. Other keys are ignored: a later version may have more."""
        found: dict[str, Any] = {}
        for item in fields(BoardFacts):
            value = values.get(item.name)
            kinds: Any = {"int": int, "float": (int, float), "bool": bool}.get(str(item.type), str)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                return None
            found[item.name] = _plain(value) if isinstance(value, str) else value
        return BoardFacts(**found)


def own_facts(name: str, busy: str = "") -> BoardFacts:
    from edgelaunch import __version__

    model, processor = own_model()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return BoardFacts(
        name=name, kind=kind_of(model, processor, battery=_has_battery()), model=model, architecture=platform.machine(),
        cores=available_cores(), memory_bytes=memory, protocol=PROTOCOL, edgecompile=__version__,
        torch=_version("torch"), python=platform.python_version(), clock_s=time.time(),
        compiles=all(find_spec(package) is not None for package in ("hydra", "omegaconf", "transformers")), busy=busy,
    )  # fmt: skip


def own_model() -> tuple[str, str]:
    """What this board and its processor call themselves; empty where they do not."""
    processor = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    name = processor.group(1).strip() if processor else ""
    board = _text("/proc/device-tree/model") or _text("/sys/class/dmi/id/board_name")
    return _plain(board) or name, name


def kind_of(model: str, processor: str = "", *, battery: bool = False) -> str:
    """The name in conf/board; of a machine that is none of these: `laptop_cpu` with a battery, else `local`."""
    for pattern, kind in KINDS.items():
        if any(re.search(pattern, text, re.IGNORECASE) for text in (model, processor)):
            return kind
    return LAPTOP if battery else OTHER


def _has_battery() -> bool:
    return any(path.read_text(encoding="utf-8", errors="replace").strip() == "Battery"
               for path in Path("/sys/class/power_supply").glob("BAT*/type"))  # fmt: skip


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _plain(text: str) -> str:
    """On one line, and no longer than a table shows."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:MOST_LETTERS]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
