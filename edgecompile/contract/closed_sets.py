"""The closed sets of words that configs and plans share. Each member equals its word; `.value` is what files hold."""

from __future__ import annotations

from enum import Enum

__all__ = [
    "WEIGHT_ONLY",
    "Artifact",
    "Cache",
    "DataKind",
    "Execution",
    "Interpolation",
    "NetworkModel",
    "Objective",
    "Precision",
    "Prepack",
    "ResultKind",
    "WireName",
    "words_of",
]


class Objective(str, Enum):
    """What the best plan is best in; ties are settled by the figures after it."""

    PERIOD = "period"
    """Least period, then latency, then number of hosts, then the fixed order."""
    LATENCY = "latency"
    """Least latency, then period, then number of hosts, then the fixed order."""
    PERIOD_UNDER_LATENCY = "period_under_latency"
    """As PERIOD, among the plans within a limit on the latency."""


class NetworkModel(str, Enum):
    """What links share: see contract.cluster.Network."""

    HOST = "host"
    PAIRWISE = "pairwise"
    SHARED = "shared"


class Execution(str, Enum):
    """What a device computes on."""

    CPU = "cpu"
    CUDA = "cuda"


class WireName(str, Enum):
    """How float32 tensors travel between stages."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT6 = "int6"
    INT4 = "int4"
    INT2 = "int2"


AUTO = "auto"
"""What options take whose value is chosen by what is predicted."""


class Precision(str, Enum):
    """How products with weights are computed; everything else is in float32."""

    FP32 = "fp32"
    BF16 = "bf16"
    """Weights and activations of 16 bits, with the range of float32."""
    FP16 = "fp16"
    INT8 = "int8"
    """Weights scaled by output channel, activations by row when they are there."""
    INT8_WEIGHTS = "int8_weights"
    """Weights alone, scaled by output channel, those of embeddings too; activations are rounded to bf16."""
    INT4_WEIGHTS = "int4_weights"
    """Likewise, with a scale and a zero for each 32 weights along the input."""


WEIGHT_ONLY = (Precision.INT8_WEIGHTS, Precision.INT4_WEIGHTS)
"""The precisions of weights alone."""


class Cache(str, Enum):
    """What the keys and values of a language model are kept in."""

    FP32 = "fp32"
    BF16 = "bf16"
    """Half the memory, and shares of attention are rounded alike."""


class Artifact(str, Enum):
    """What a shard is: frozen TorchScript, or torch.export's ExportedProgram; NONE: there is none, only a plan."""

    TORCHSCRIPT = "torchscript"
    PT2 = "pt2"
    NONE = "none"


class Prepack(str, Enum):
    """Whether a rank rearranges weights for oneDNN's products; AUTO: on x86 processors other than Intel's."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class DataKind(str, Enum):
    """What the model's inputs are to a person."""

    TENSOR = "tensor"
    IMAGE = "image"
    TEXT = "text"


class ResultKind(str, Enum):
    """What the model's results are to a person; LABELS: an output holds class scores."""

    ARRAY = "array"
    LABELS = "labels"


class Interpolation(str, Enum):
    """How images are resized."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


def words_of(kind: type[Enum]) -> tuple[str, ...]:
    """The words of a closed set, in its order."""
    return tuple(member.value for member in kind)
