"""units x devices -> seconds, from the devices' figures or from measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecompile.domain import Device
from edgecompile.units import Chain, Unit

__all__ = ["Profile", "analytic_profile"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Seconds of each unit at the plan's microbatch, for each device kind."""

    unit_s: Mapping[str, tuple[float, ...]]


def analytic_profile(chain: Chain, devices: Sequence[Device]) -> Profile:
    """The roofline: a unit takes as long as its arithmetic or its memory traffic, whichever is longer, plus a launch.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 2009; the launch overhead is the device option's figure.
    """
    return Profile(unit_s={device.name: tuple(_roofline(unit, device) for unit in chain.units) for device in devices})


def _roofline(unit: Unit, device: Device) -> float:
    arithmetic_s = unit.flops / device.peak_flops_per_s
    traffic_s = unit.moved_bytes / device.memory_bytes_per_s
    return max(arithmetic_s, traffic_s) + device.launch_s
