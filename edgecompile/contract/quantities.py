"""Parses and formats quantities with units: "50Mbps", "4GB", "472 GFLOPS" to SI numbers and back."""

from __future__ import annotations

import math
import re

from edgecompile.contract.errors import UserError, choices, invalid_value

__all__ = [
    "format_bytes",
    "format_count",
    "format_flops",
    "format_items_rate",
    "format_number",
    "format_rate",
    "format_time",
    "parse_bytes",
    "parse_flops",
    "parse_rate",
    "parse_time",
]

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
        value, key, _RATES, "a rate greater than 0 such as 50Mbps, 25.6GB/s or a number of bytes a second", least=1e-9
    )


def parse_flops(value: object, key: str) -> float:
    """`472 GFLOPS` or a number -> floating-point operations a second. Raises UserError that names `key`."""
    return _parse(value, key, _FLOPS, "a rate greater than 0 such as 472 GFLOPS, 1.3 TFLOPS or a number", least=1e-9)


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
        raise UserError(
            f"{value!r} has the unknown unit {unit!r}", key=key, fix=f"the units are {choices(units, unit)}"
        )
    result = number * units.get(unit, 1.0)
    if not math.isfinite(result) or not least <= result < 2**62:
        raise invalid_value(value, key, allowed)
    return result


def format_bytes(num_bytes: float, digits: int = 3) -> str:
    """`1.2 GB`, for people."""
    return _scaled(num_bytes, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)), digits)


def format_rate(bytes_per_s: float) -> str:
    """`940 Mbit/s`, for people."""
    return _scaled(bytes_per_s * 8, (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1)))


def format_time(seconds: float, digits: int = 3) -> str:
    """`3.4 ms`, for people."""
    return _scaled(seconds, (("s", 1), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)), digits)


def format_flops(operations: float, unit: str = "FLOPS") -> str:
    """`472 GFLOPS`, for people; `unit`: FLOPS for a rate, FLOP for work."""
    return _scaled(operations, ((f"T{unit}", 1e12), (f"G{unit}", 1e9), (f"M{unit}", 1e6), (f"k{unit}", 1e3), (unit, 1)))


def format_count(count: int) -> str:
    """`4,321` or `86.6 M`, for people: of parameters, items and the like."""
    return f"{count:,}" if abs(count) < 1_000_000 else format_number(count)


def format_items_rate(items_per_s: float, digits: int = 3, items: str = "items") -> str:
    """`56.7 items/s`, `10,200 items/s`, for people. `items`: what is counted."""
    return f"{format_number(items_per_s, digits)} {items}/s"


def format_number(value: float, digits: int = 3) -> str:
    """`0.00123`, `56.7`, `10,200`, `1.23 M`: so many digits and never an exponent, for people."""
    if abs(_rounded(value, digits)) < 1e6:
        return _plain(value, digits)
    return _scaled(value, (("T", 1e12), ("G", 1e9), ("M", 1e6)), digits)


def _scaled(value: float, scales: tuple[tuple[str, float], ...], digits: int = 3) -> str:
    """In the largest unit of which it is one or more once it is rounded, else in the smallest; 0 in the plain one."""
    whole = [(unit, factor) for unit, factor in scales if abs(_rounded(value / factor, digits)) >= 1]
    plain = [(unit, factor) for unit, factor in scales if factor == 1 and value == 0]
    unit, factor = (*whole, *plain, scales[-1])[0]
    return f"{_plain(value / factor, digits)} {unit}"


def _plain(value: float, digits: int) -> str:
    """Without an exponent for all that is real; a fraction does not end in zeros."""
    rounded = _rounded(value, digits)
    if rounded == 0 or not 1e-12 < abs(rounded) < 1e18:
        return f"{abs(rounded) if rounded == 0 else rounded:.{digits}g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _rounded(value: float, digits: int) -> float:
    """To so many significant digits."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
