"""The cost of encoding and decoding a boundary on its two stages, estimated or measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from edgecompile.config.cluster_spec import Device
from edgecompile.contract.errors import UserError
from edgecompile.frontend.chain.units import Boundary
from edgecompile.profile.profile_file import Cost, DeviceProfile, WireCost
from edgecompile.wire import formats as analytic
from edgecompile.wire.formats import WireFormat, is_encoded, items_first, may_clip, wire_bytes

__all__ = ["AnalyticWires", "MeasuredWires", "WireCosts"]

_INTERRUPTS = 2
"""So many times what a message's calls take alone it takes of a stage whose core it needs: the launcher's own threads
take as much again, and computing finds its caches cold."""


class WireCosts(Protocol):
    """Seconds of one kind of device."""

    def encode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        """Of the stage that ends here."""

    def decode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        """Of the stage that begins here."""


@dataclass(frozen=True)
class AnalyticWires:
    """Encoding and decoding alone, by memory traffic."""

    device: Device

    def encode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        return analytic.encode_s(boundary, wire, self.device)

    def decode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        return analytic.decode_s(boundary, wire, self.device)


@dataclass(frozen=True)
class MeasuredWires:
    """Encoding, decoding and packing as measured, and what gloo takes of cores that computing needs too."""

    profile: DeviceProfile
    call_s: float
    """What each stage takes beside its units."""
    cores: float
    crowded: bool = False
    """Whether the cores are a whole machine's, which all its threads share; a part of one is granted by its quota."""

    def encode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        size = wire_bytes(boundary, wire)
        encode_s = sum(self._formats(boundary, wire, "encode"))
        pack_s = self.profile.rates.pack.seconds(size, self.cores)
        return encode_s + pack_s + self._taken_s(self.profile.messages.send, size)

    def decode_s(self, boundary: Boundary, wire: WireFormat) -> float:
        decode_s = sum(self._formats(boundary, wire, "decode"))
        call_s = max(self.call_s, self.call_s / self.cores)
        return call_s + decode_s + self._taken_s(self.profile.messages.receive, wire_bytes(boundary, wire))

    def _formats(self, boundary: Boundary, wire: WireFormat, side: str) -> list[float]:
        shapes = [items_first(tensor) for tensor in boundary.tensors if is_encoded(tensor, wire)]
        costs: list[Cost] = [getattr(self._cost(wire, wire.num_groups(shape)), side) for shape in shapes]
        return [cost.seconds(math.prod(shape), self.cores) for cost, shape in zip(costs, shapes, strict=True)]

    def _cost(self, wire: WireFormat, num_groups: int) -> WireCost:
        scale = "channel" if wire.is_integer and num_groups > 1 else "item"
        clipping = wire.clipping or not may_clip(wire, num_groups)
        for found in self.profile.wires:
            if (found.format, found.scale, found.clipping) == (wire.name, scale, clipping):
                return found
        raise UserError(
            f"the profile of {self.profile.model} on {self.profile.device} has no costs of the wire format "
            f"{wire.name} (scale: {scale}): measure again with edgeprofile"
        )

    def _taken_s(self, message: Cost, num_bytes: int) -> float:
        """Links work beside the computing: they cost it nothing where a core is free for them."""
        busy = min(1.0, max(0.0, self.profile.threads + 1 - self.cores))
        taken_s = message.cpu_seconds(num_bytes) * (_INTERRUPTS if self.crowded else 1)
        return busy * taken_s / self.cores
