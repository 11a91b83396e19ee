"""profile=analytic: estimates unit times from the devices' data sheets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecompile.config.cluster_spec import Device
from edgecompile.contract.closed_sets import WEIGHT_ONLY, Execution, Precision
from edgecompile.frontend.chain.products import WEIGHT_SHARES, lowered_by
from edgecompile.frontend.chain.units import Chain, Unit
from edgecompile.planning.memory import heap_bytes
from edgecompile.profile.wire_costs import AnalyticWires, WireCosts

__all__ = ["CandidateCost", "ItemCost", "Products", "Profile", "analytic_profile", "roofline_s"]

Number = TypeVar("Number", float, NDArray[np.float64])


@dataclass(frozen=True, kw_only=True)
class ItemCost:
    """What the cores of a data host of this kind take, over those that a stage has, in seconds."""

    item_s: float
    """Of an item's arrays and results."""
    text_s: float
    """Of a text that is tokenised, and of each of its tokens."""
    token_s: float

    def of_message(self, items: float, tokens: float | None) -> float:
        """`tokens`: of all items together; None: they are not texts."""
        text_s = 0.0 if tokens is None else items * self.text_s + tokens * self.token_s
        return items * self.item_s + text_s


@dataclass(frozen=True, kw_only=True)
class CandidateCost:
    """Seconds that the last stage of a language model takes to find the most likely tokens of scores."""

    fixed_s: float
    row_s: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the units cost at the plan's microbatch on each device kind."""

    unit_s: Mapping[str, tuple[float, ...]]
    """Seconds of each unit."""
    of_mix: frozenset[str] = frozenset()
    """The kinds whose seconds are of the workload's mean message already, as messages of its sizes were measured."""
    wires: Mapping[str, WireCosts]
    """Seconds at each boundary."""
    runtime_bytes: Mapping[str, int]
    """Memory of a rank that holds nothing yet."""
    activation_bytes: tuple[int, ...]
    """What a rank's heap holds of activations while each unit runs, on whichever kind takes most."""
    items: Mapping[str, ItemCost] = field(default_factory=dict)
    """Of the kinds of which it is known: what an item takes at the data host."""
    candidates: Mapping[str, CandidateCost] = field(default_factory=dict)
    """Of the kinds of which it is known, and a language model."""
    notes: tuple[str, ...] = field(default=())
    """For the plan: where the figures come from."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """The units that a precision makes cheaper: products of activations and weights."""

    weight_bytes: Mapping[Precision, Mapping[int, int]]
    """By unit that the precision changes: of its weights, in float32."""

    @staticmethod
    def of(chain: Chain, keep: Sequence[str], devices: Iterable[Device]) -> Products:
        """`keep`: modules whose products stay in float32."""
        lowered = lowered_by(chain, keep, (device.precision for device in devices))
        return Products(
            weight_bytes={
                precision: {unit.index: unit.weight_bytes for unit in chain.units if unit.index in units}
                for precision, units in lowered.items()
            }
        )

    def lowered(self, flops: Number, moved_bytes: Number, unit: int, device: Device) -> tuple[Number, Number]:
        """What is left of a unit's operations and bytes in the device's precision.

        Arithmetic is as much faster as the data sheet says (`precisions`; no figure: not at all). Weights have fewer
        bytes whether or not it names the precision, and a decode step does little else than reading them; but those
        that are rounded alone are floats again before a product, where a device has no kernel for them.
        """
        weights = self.weight_bytes.get(device.precision, {})
        if unit not in weights or (device.precision in WEIGHT_ONLY and not device.gains_in(device.precision)):
            return flops, moved_bytes
        saved = round(weights[unit] * (1 - WEIGHT_SHARES[device.precision]))
        return flops / device.product_speedup, np.maximum(0.0, moved_bytes - saved)


def analytic_profile(chain: Chain, devices: Sequence[Device], keep: Sequence[str] = ()) -> Profile:
    """The roofline, plus a launch: see roofline_s. Products are in the device's precision, as its data sheet has it.

    The figures are of the device as it is used: its `cpu_share`, if it has one, changes none of them.

    Args:
        keep: modules whose products stay in float32.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 2009; the launch overhead is the device option's figure.
    """
    products = Products.of(chain, keep, devices)
    return Profile(
        unit_s={device.name: tuple(_unit_s(unit, device, products) for unit in chain.units) for device in devices},
        wires={device.name: AnalyticWires(device) for device in devices},
        runtime_bytes={device.name: device.runtime_bytes for device in devices},
        activation_bytes=tuple(heap_bytes(unit.activation_bytes) for unit in chain.units),
        notes=tuple(
            f"times of {device.name}: arithmetic in {device.precision.value} is predicted to be as slow as in fp32, "
            f"since devices.{device.name}.precisions does not name it, and only its weights to be read faster; "
            "edgeprofile measures it"
            for device in devices
            if device.precision is not Precision.FP32 and not device.gains_in(device.precision)
        ),
    )


def _unit_s(unit: Unit, device: Device, products: Products) -> float:
    flops, moved_bytes = products.lowered(float(unit.flops), float(unit.moved_bytes), unit.index, device)
    return roofline_s(float(flops), float(moved_bytes), device)


def roofline_s(flops: float, moved_bytes: float, device: Device) -> float:
    """Seconds of arithmetic and of memory traffic: both on a CPU, the longer of them on a GPU, which hides the other.

    In a product of few rows a core waits for most of the weights: MiniLM with 10, 20, 80 and 320 tokens took 6.0, 8.1,
    21 and 88 ms on one core, where both together are 6.5, 9.4, 27 and 96 ms, and the longer 3.6, 5.8, 23 and 92 ms.
    """
    arithmetic_s, traffic_s = flops / device.peak_flops_per_s, moved_bytes / device.memory_bytes_per_s
    if device.execution is Execution.CPU:
        return arithmetic_s + traffic_s + device.launch_s
    return max(arithmetic_s, traffic_s) + device.launch_s
