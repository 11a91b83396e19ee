"""The closed sets of words that only configs have; the schema's own are spelled as OmegaConf wants them."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "PASS_NAMES",
    "CaptureMethod",
    "Fill",
    "OutsideProfile",
    "Pixels",
    "ProfileMethod",
    "ScheduleMethod",
    "TextObjective",
    "UnusedWeights",
    "WireScale",
]

PASS_NAMES = (
    "drop_guards",
    "drop_dropout",
    "fold_literals",
    "fold_constants",
    "drop_devices",
    "drop_identities",
    "drop_copies",
    "drop_true_masks",
    "fold_prefixes",
    "push_selection_up",
    "sink_views",
)
"""The switches of `passes`, in the order in which the passes run."""


class CaptureMethod(str, Enum):
    export = "export"
    symbolic_trace = "symbolic_trace"


class ScheduleMethod(str, Enum):
    exact = "exact"
    even = "even"
    manual = "manual"
    single = "single"
    pipeedge = "pipeedge"
    pipeedge_shipped = "pipeedge_shipped"
    greedy_memory = "greedy_memory"


class TextObjective(str, Enum):
    """What the plan of a language model is best in."""

    THROUGHPUT = "throughput"
    """Tokens a second of all slots together, prompts included."""
    TOKEN_LATENCY = "token_latency"  # noqa: S105 - of text, not a secret
    """The time of a token of one stream."""
    FIRST_TOKEN = "first_token"  # noqa: S105
    """The time from a usual prompt to its first token."""


class ProfileMethod(str, Enum):
    auto = "auto"
    """Measured, where a profile fits or the device is this machine; data sheets for the others."""
    analytic = "analytic"
    measured = "measured"


class OutsideProfile(str, Enum):
    """What happens to a microbatch outside of those measured."""

    REFUSE = "refuse"
    ANALYTIC = "analytic"


class UnusedWeights(str, Enum):
    """What happens to a weights file's tensors that tell of another model."""

    REFUSE = "refuse"
    IGNORE = "ignore"


class WireScale(str, Enum):
    """What has an offset and a step of its own in integer formats."""

    ITEM = "item"
    CHANNEL = "channel"


class Pixels(str, Enum):
    """What travels of an image."""

    FLOAT32 = "float32"
    UINT8 = "uint8"


class Fill(str, Enum):
    """What the items hold that a model is tested with."""

    NORMAL = "normal"
    UNIFORM = "uniform"
    IDS = "ids"
    MASK = "mask"
    ZEROS = "zeros"
    ONES = "ones"
    POSITIONS = "positions"
    """Counted from 0, and -1 where a mask would pad."""
