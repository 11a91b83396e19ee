def scale(x: int, stride: int, rows: int, size: int, result: int, worth: int, most: float, least: float) -> None: ...
def normalize(x: int, stride: int, rows: int, size: int, weights: int, epsilon: float, result: int) -> None: ...
def normalize_and_scale(
    x: int, stride: int, rows: int, size: int, weights: int, epsilon: float, result: int, worth: int, most: float,
    least: float,
) -> None: ...  # fmt: skip
def gate_and_scale(
    gate: int, gate_stride: int, up: int, up_stride: int, rows: int, size: int, result: int, worth: int, most: float,
    least: float,
) -> None: ...  # fmt: skip
def rotate(
    x: int, shape: tuple[int, int, int, int], strides: tuple[int, int, int], cos: int, cos_row: int, cos_token: int,
    sin: int, sin_row: int, sin_token: int, result: int,
) -> None: ...  # fmt: skip
def candidates(scores: int, rows: int, size: int, count: int, best: int, places: int, log_sums: int) -> None: ...

most_summed: int

def product_instructions() -> str: ...
def packed_size8(out: int, into: int, /) -> int: ...
def pack8(codes: int, out: int, into: int, first: int, packed: int, /) -> None: ...
def packed_size4(out: int, into: int, /) -> int: ...
def pack4(codes: int, worth: int, out: int, into: int, first: int, packed: int, /) -> None: ...

class Weights: ...

def eight_bits(packed: int, scale: int, bias: int, out: int, into: int, /) -> Weights: ...
def four_bits(packed: int, bias: int, out: int, into: int, /) -> Weights: ...

class FusedProducts:
    def __init__(
        self,
        sizes: list[int],
        products: list[tuple[Weights, tuple[int, int], tuple[int, int], int, float, tuple[int, int]]],
    ) -> None:
        """Each product: its weights; x; what gates it; weights of its normalization and epsilon; what is added.
        Operands are the number of a value, -1 for none, and where the part begins."""

    def run(self, rows: int, given: list[tuple[int, int]], results: list[int]) -> None:
        """Addresses of float32 and strides of rows; results: 0 where they are not asked for."""

class Rows:
    def __init__(self, rows: list[tuple[int, int, bool]]) -> None:
        """Each: slot, position, and whether all before is there."""

class Room:
    def __init__(
        self, keys: int, values: int, slots: int, groups: int, context: int, key_size: int, value_size: int
    ) -> None:
        """Of float32 (slots, groups, context, size) at these addresses, which must outlive it."""

    def attend(
        self,
        rows: Rows,
        q: int,
        q_row: int,
        q_head: int,
        k: int,
        k_row: int,
        k_head: int,
        v: int,
        v_row: int,
        v_head: int,
        result: int,
        heads: int,
        scale: float,
        window: int,
        softcap: float,
        sinks: int,
        cos: int,
        cos_row: int,
        sin: int,
        sin_row: int,
    ) -> None:
        """Addresses of float32, with strides of rows and heads in numbers: see attend.hpp."""

class Chunks:
    def __init__(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Each: slot, first position, number of tokens, and whether all before is there."""

class HalfRoom:
    def __init__(
        self, keys: int, values: int, slots: int, groups: int, context: int, key_size: int, value_size: int
    ) -> None:
        """Of bf16 (slots, groups, context, size) at these addresses, which must outlive it."""

    def attend(
        self,
        chunks: Chunks,
        tokens: int,
        q: int,
        q_strides: tuple[int, int, int],
        k: int,
        k_strides: tuple[int, int, int],
        v: int,
        v_strides: tuple[int, int, int],
        result: int,
        heads: int,
        scale: float,
        window: int,
        softcap: float,
        sinks: int,
        cos: int,
        cos_row: int,
        cos_token: int,
        sin: int,
        sin_row: int,
        sin_token: int,
        threads: int,
        /,
    ) -> None:
        """Addresses of float32, with strides of rows, heads and tokens in numbers: see attend_bf16.hpp."""
