"""Decides which rows of which sequences go into the next message: no threads, clocks or tensors.

As many groups of sequences are under way as there are stages, so that each stage has one to work on. Chunks of prompts
and decode steps take turns; chunks of one prompt follow each other without waiting. Nothing of a sequence is lost with
a message: what has no result is sent again, and a sequence whose state is lost somewhere begins again, from its prompt
and the tokens that it has already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

__all__ = ["Batcher", "Row", "Sequence"]


@dataclass(eq=False)
class Sequence:
    """A request that has a slot."""

    serial: int
    slot: int
    tokens: list[int]
    """Its prompt, and what was chosen since."""
    sent: int = 0
    """Tokens that are under way or were."""
    attempt: int = 0
    """Counts up when it is sent again, so that what was under way is told from that."""
    since: int = 0
    """When its next step could be sent, in messages: who waits longest goes first."""
    waiting: bool = False
    """Whether the scores after its last token are there, and no token was chosen of them yet."""
    rebuilt: int = 0
    """How often its state was made again."""


@dataclass(frozen=True)
class Row:
    sequence: Sequence
    attempt: int
    start: int
    count: int

    @property
    def last(self) -> bool:
        """Whether the scores after this row are those of the sequence's next token."""
        return self.start + self.count == len(self.sequence.tokens)

    @property
    def current(self) -> bool:
        return self.attempt == self.sequence.attempt


@dataclass
class Batcher:
    slots: int
    chunk: int
    """Tokens that a message of prompts has at most, all rows together."""
    rows: int
    """Rows that a message has at most."""
    groups: int
    """Groups of sequences that shall be under way: as many as stages."""
    _free: list[int] = field(default_factory=list)
    _sequences: dict[int, Sequence] = field(default_factory=dict)
    """By slot."""
    _under_way: deque[tuple[int, tuple[Row, ...]]] = field(default_factory=deque)
    """By the number of the message, in order."""
    _steps: set[int] = field(default_factory=set)
    """Which of those are decode steps."""
    _serial: int = 0
    _next: int = 0
    _prompts_last: bool = False

    def __post_init__(self) -> None:
        self._free = list(range(self.slots))[::-1]

    # --- sequences ---------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    @property
    def num_sequences(self) -> int:
        return len(self._sequences)

    def admit(self, prompt: Iterable[int]) -> Sequence:
        """Gives it a slot; there must be one."""
        slot = self._free.pop()
        self._serial += 1
        sequence = Sequence(serial=self._serial, slot=slot, tokens=list(prompt))
        self._sequences[slot] = sequence
        return sequence

    def append(self, sequence: Sequence, token: int) -> None:
        """The next token was chosen."""
        sequence.tokens.append(token)
        sequence.waiting = False

    def drop(self, sequence: Sequence) -> None:
        """Its slot is free at once: whatever is under way for it means nothing."""
        if self._sequences.get(sequence.slot) is sequence:
            del self._sequences[sequence.slot]
            sequence.attempt += 1
            self._free.append(sequence.slot)

    # --- messages ----------------------------------------------------------------------------------------------------

    @property
    def num_under_way(self) -> int:
        return len(self._under_way)

    @property
    def next_number(self) -> int:
        return self._next

    def take(self) -> tuple[int, tuple[Row, ...]] | None:
        """The next message, and its number; None: nothing may be sent now."""
        if len(self._under_way) > self.groups:
            return None
        unsent = {True: list[Sequence](), False: list[Sequence]()}
        for sequence in self._sequences.values():
            left = len(sequence.tokens) - sequence.sent
            if left > 0 and not sequence.waiting:
                unsent[left > 1 or sequence.sent == 0].append(sequence)
        # A group that came back early waits for one that is under way, so that they become one: else those that began
        # at different times would stay apart, and each message reads all weights.
        prompts, steps = unsent[True], unsent[False] if len(self._steps) < self.groups else []
        if prompts and (not steps or not self._prompts_last):
            rows, self._prompts_last = self._prompt_rows(prompts), True
        elif steps:
            rows, self._prompts_last = self._step_rows(steps), False
            self._steps.add(self._next)
        else:
            return None
        for row in rows:
            row.sequence.sent = row.start + row.count
        number, self._next = self._next, self._next + 1
        self._under_way.append((number, rows))
        return number, rows

    def _prompt_rows(self, prompts: list[Sequence]) -> tuple[Row, ...]:
        """The oldest, and others that fit beside it."""
        prompts = sorted(prompts, key=lambda item: item.serial)
        width = min(self.chunk, len(prompts[0].tokens) - prompts[0].sent)
        most = min(self.rows, max(1, self.chunk // width))
        chosen = [item for item in prompts if len(item.tokens) - item.sent <= width or item is prompts[0]][:most]
        return self._rows_of(chosen, width)

    def _step_rows(self, steps: list[Sequence]) -> tuple[Row, ...]:
        """Those that have waited longest, so many that as many groups are under way as there are stages."""
        generating = sum(len(item.tokens) - item.sent <= 1 for item in self._sequences.values())
        most = min(self.rows, ceil(generating / self.groups))
        return self._rows_of(sorted(steps, key=lambda item: (item.since, item.slot))[:most], 1)

    def _rows_of(self, chosen: list[Sequence], width: int) -> tuple[Row, ...]:
        chosen = sorted(chosen, key=lambda item: item.slot)  # neighbours' state is read where it is
        return tuple(Row(item, item.attempt, item.sent, min(width, len(item.tokens) - item.sent)) for item in chosen)

    def arrive(self, number: int, lost: Iterable[bool]) -> list[Sequence]:
        """A message's result is there: the sequences whose next token is to be chosen, in the order of its rows.

        Args:
            lost: for each row, whether some rank did not hold what came before it.
        """
        first, rows = self._under_way.popleft()
        self._steps.discard(first)
        assert first == number, f"the result of message {number} came before that of {first}"
        chosen = []
        for row, is_lost in zip(rows, lost, strict=True):
            sequence = row.sequence
            if not row.current:
                continue
            if is_lost:
                sequence.attempt += 1
                sequence.sent, sequence.waiting = 0, False
                sequence.rebuilt += 1
            elif row.last:
                sequence.waiting = True
                sequence.since = number
                chosen.append(sequence)
        return chosen

    def rows_of(self, number: int) -> tuple[Row, ...]:
        """Of the oldest message under way, which has this number."""
        first, rows = self._under_way[0]
        assert first == number, f"the result of message {number} came before that of {first}"
        return rows

    def send_again(self) -> None:
        """Whatever is under way has no result, and gets none."""
        oldest: dict[int, Row] = {}
        for _, rows in self._under_way:
            for row in rows:
                if row.current:
                    oldest.setdefault(row.sequence.serial, row)
        self._under_way.clear()
        self._steps.clear()
        for row in oldest.values():
            row.sequence.attempt += 1
            row.sequence.sent = row.start
