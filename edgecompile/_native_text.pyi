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
def codes_size(out: int, in_: int) -> int: ...
def pack_codes(codes: int, out: int, in_: int, packed: int) -> None: ...

class Stretch:
    def __init__(
        self,
        sizes: list[int],
        links: list[
            tuple[tuple[int, int, int, int, int], tuple[int, int], tuple[int, int], int, float, tuple[int, int]]
        ],
    ) -> None:
        """Each link: packed codes, scale, bias, outputs and inputs; x; what gates it; weights of its normalization and
        epsilon; what is added. Operands are the number of a value, -1 for none, and where the part begins."""

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
