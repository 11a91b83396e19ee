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
    ) -> None:
        """Addresses of float32, with strides of rows and heads in numbers: see attend.hpp."""
