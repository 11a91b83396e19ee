""" "50Mbps", "4GB", "472 GFLOPS" -> SI numbers; the only place that knows users' units."""

from __future__ import annotations

import math
import re

from edgecompile.errors import UserError, choices

__all__ = ["format_bytes", "format_rate", "format_time", "parse_bytes", "parse_flops", "parse_rate", "parse_time"]

_NUMBER = re.compile(r"^\s*([+-]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*$")

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

_BYTES = {prefix + "B": float(factor) for prefix, factor in (_DECIMAL | _BINARY).items()}
_RATES = {
    **{unit + "/s": factor for unit, factor in _BYTES.items()},
    **{prefix + "bps": factor / 8 for prefix, factor in (_DECIMAL | _BINARY).items()},
    **{prefix + "bit/s": factor / 8 for prefix, factor in (_DECIMAL | _BINARY).items()},
}
_FLOPS = {prefix + ending: float(factor) for prefix, factor in _DECIMAL.items() for ending in ("FLOPS", "FLOP/s")}
_TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0}


def parse_bytes(value: object, key: str) -> int:
    """`4GB`, `512 MiB` or a number of bytes -> bytes. Raises UserError that names `key`."""
    return round(_parse(value, key, _BYTES, "a size such as 4GB, 512MiB or a number of bytes"))


def parse_rate(value: object, key: str) -> float:
    """`50Mbps`, `25.6GB/s` or a number of bytes a second -> bytes a second. Raises UserError that names `key`."""
    return _parse(
        value, key, _RATES, "a rate over 0 such as 50Mbps, 25.6GB/s or a number of bytes a second", least=1e-9
    )


def parse_flops(value: object, key: str) -> float:
    """`472 GFLOPS` or a number -> floating-point operations a second. Raises UserError that names `key`."""
    return _parse(value, key, _FLOPS, "a rate over 0 such as 472 GFLOPS, 1.3 TFLOPS or a number", least=1e-9)


def parse_time(value: object, key: str) -> float:
    """`12us`, `0.3 ms` or a number of seconds -> seconds. Raises UserError that names `key`."""
    return _parse(value, key, _TIMES, "a time such as 12us, 0.3ms or a number of seconds")


def _parse(value: object, key: str, units: dict[str, float], allowed: str, least: float = 0.0) -> float:
    number, unit = math.nan, ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str) and (match := _NUMBER.match(value)):
        number, unit = float(match[1].replace("_", "")), match[2]
    if unit and unit not in units:
        raise UserError(f"{key}: {value!r} has the unknown unit {unit!r}: the units are {choices(units)}")
    result = number * units.get(unit, 1.0)
    if not math.isfinite(result) or not least <= result < 2**62:
        raise UserError(f"{key}: {value!r} does not do: it must be {allowed}")
    return result


def format_bytes(num_bytes: float) -> str:
    """`1.2 GB`: three digits at most before the unit, for people."""
    return _scaled(num_bytes, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), "B")


def format_rate(bytes_per_s: float) -> str:
    """`940 Mbit/s`, for people."""
    return _scaled(bytes_per_s * 8, (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3)), "bit/s")


def format_time(seconds: float) -> str:
    """`3.4 ms`, for people."""
    return _scaled(seconds, (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)), "s")


def _scaled(value: float, scales: tuple[tuple[str, float], ...], smallest: str) -> str:
    for unit, factor in scales:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}" if value / factor < 1000 else f"{value / factor:,.0f} {unit}"
    return f"{value:.3g} {smallest}"
