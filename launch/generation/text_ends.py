"""The data host's ends of the pipeline where it generates text: requests become messages, results become tokens."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.execution.slot_state import is_lost, slot_value
from edgelaunch.common.failures import Abandoned
from edgelaunch.generation.answers import Answer, TextRequest
from edgelaunch.generation.batcher import Batcher, Row, Sequence
from edgelaunch.generation.dialogue import Spelling, Text
from edgelaunch.generation.text_tally import TextTally
from edgelaunch.generation.token_choice import choose
from edgelaunch.pipeline.result_counters import CollectingEnd
from edgelaunch.transport.counters import Series
from edgelaunch.transport.links import Consumer, Producer
from edgelaunch.transport.message_buffers import END, Slot

__all__ = ["Busy", "TextEnds"]

MOST_WAITING = 256


class Busy(UserError):
    """As many requests wait as may."""


class _Running:
    """A request that has a slot."""

    def __init__(self, answer: Answer, sequence: Sequence, text: Text | None) -> None:
        self.answer, self.sequence, self.text = answer, sequence, text


class TextEnds:
    """As Ends. Requests may be made by any thread."""

    def __init__(
        self, plan: Plan, folder: Path, work: Callable[[TextEnds], None], *, spelling: Spelling | None = None,
        most_waiting: int = MOST_WAITING,
    ) -> None:  # fmt: skip
        """
        Args:
            work: makes the requests, in a thread of its own, once the ranks are connected; none come after it.
            spelling: the plan's tokenizer; None: answers are token ids alone.
            most_waiting: requests that may wait for a slot.
        """
        assert plan.generation is not None
        self._plan, self.generation, self.spelling = plan, plan.generation, spelling
        self._work, self._most_waiting = work, most_waiting
        self._changed = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._running: dict[int, _Running] = {}
        """By slot."""
        self._closed = False
        self.tally = TextTally()
        """Of the requests that have ended."""
        self._epoch = 0
        self._batcher = Batcher(
            slots=plan.generation.slots, chunk=plan.generation.chunk, rows=plan.model.microbatch,
            groups=min(len(plan.stages), plan.generation.slots),
        )  # fmt: skip
        self.feeder, self.collector = TextFeeder(self), TextCollector(self)

    # --- requests ----------------------------------------------------------------------------------------------------

    def ask(
        self, request: TextRequest, *, wait: bool = True, check: Callable[[], None] = lambda: None,
        ended: Callable[[Answer], None] = lambda answer: None, changed: Callable[[], None] = lambda: None,
    ) -> Answer:  # fmt: skip
        """Puts a request into the queue.

        Args:
            ended, changed: as of Answer.
            wait: for a place in it; `check` is called now and then, and may raise.

        Raises:
            UserError: the plan does not allow the request.
            Busy: the queue is full.
        """
        request.check(self.generation)
        with self._changed:
            while len(self._waiting) >= self._most_waiting and not self._closed:
                if not wait:
                    raise Busy(
                        f"{len(self._waiting)} requests wait for one of {self.generation.slots} slots already: try "
                        "again later"
                    )
                self._changed.wait(0.1)
                check()
            answer = Answer(request, ended, changed)
            if self._closed:
                self._end(answer, "cancelled")
                return answer
            self._waiting.append(answer)
            self._changed.notify_all()
        return answer

    def cancel(self, answer: Answer) -> None:
        """Who asked has gone: its slot is free at once."""
        with self._changed:
            if answer in self._waiting:
                self._waiting.remove(answer)
            for running in list(self._running.values()):
                if running.answer is answer:
                    self._free(running, "cancelled")
            self._end(answer, "cancelled")
            self._changed.notify_all()

    def close(self) -> None:
        """No more requests come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # --- of the process ----------------------------------------------------------------------------------------------

    def draw(self, may_begin: Callable[[], bool]) -> None:
        if may_begin():
            self.feeder.begin_ns = perf_counter_ns()
            try:
                self._work(self)
            finally:
                self.close()

    def begin(self, number: int) -> int:
        with self._changed:
            self._epoch = number
            self._batcher.send_again()
            self._changed.notify_all()
            return self._batcher.next_number

    def halt(self) -> None:
        with self._changed:
            self._epoch = 0
            self._changed.notify_all()
        self.collector.pause()

    def abandon(self) -> None:
        """Answers that are open end as they are: nobody waits for what nobody computes."""
        with self._changed:
            self._epoch, self._closed = 0, True
            for answer in (*self._waiting, *(running.answer for running in self._running.values())):
                self._end(answer, "cancelled")
            self._waiting.clear()
            self._changed.notify_all()

    @property
    def num_items(self) -> int:
        """Rows whose results are there."""
        return self.collector.num_items

    def num_in_flight(self) -> int:
        return self._batcher.num_sequences

    # --- messages ----------------------------------------------------------------------------------------------------

    def take(self, epoch: int) -> tuple[int, tuple[Row, ...]] | None:
        """The next message; None: nothing more comes. Raises Abandoned once the epoch is over."""
        with self._changed:
            while True:
                self._check(epoch)
                self._admit()
                if (taken := self._batcher.take()) is not None:
                    return taken
                if self._closed and not self._waiting and not self._running and not self._batcher.num_under_way:
                    return None
                self._changed.wait()

    def next_number(self) -> int:
        return self._batcher.next_number

    def _check(self, epoch: int) -> None:
        if epoch != self._epoch:
            raise Abandoned

    def _admit(self) -> None:
        while self._waiting and self._batcher.has_room:
            answer = self._waiting.popleft()
            answer.begun_ns = perf_counter_ns()
            sequence = self._batcher.admit(answer.request.prompt)
            answer.slot = sequence.slot
            text = Text(self.spelling, answer.request.stops) if self.spelling is not None else None
            self._running[sequence.slot] = _Running(answer, sequence, text)
            self._changed.notify_all()

    def results(self, epoch: int, number: int, slot: Slot) -> int:
        """Takes a message's results; returns how many rows it had."""
        named = slot.named()
        lost = [is_lost(value) for value in named["slots"].tolist()]
        with self._changed:
            self._check(epoch)
            rows = self._batcher.rows_of(number)
            chosen = self._batcher.arrive(number, lost)
            scores, ids, totals = named["scores"].numpy(), named["ids"].numpy(), named["total"].tolist()
            now_ns = perf_counter_ns()
            place = {row.sequence.serial: index for index, row in enumerate(rows)}
            for sequence in chosen:
                running, index = self._running[sequence.slot], place[sequence.serial]
                if not math.isfinite(totals[index]):
                    raise UserError(
                        f"the model computes {totals[index]} as the scores of token "
                        f"{len(sequence.tokens)} of a text: its weights or its precision do not hold such values"
                    )
                if not running.answer.first_ns and running.answer.request.keep_scores:
                    running.answer.scores = scores[index].copy(), ids[index].copy()
                token = choose(
                    scores[index],
                    ids[index],
                    running.answer.request.sampling,
                    sequence.tokens,
                    len(sequence.tokens),
                    whole=self.generation.candidates == self.generation.vocabulary,
                )
                if token is None:
                    self._finish(running, "candidates")
                else:
                    self._chosen(running, token, now_ns)
            self._changed.notify_all()
            return len(rows)

    def _chosen(self, running: _Running, token: int, now_ns: int) -> None:
        answer, request, sequence = running.answer, running.answer.request, running.sequence
        answer.rebuilt = sequence.rebuilt
        if not answer.first_ns:
            answer.first_ns = now_ns
        answer.last_ns = now_ns
        if token in self.generation.stop_ids and not request.ignore_end:
            self._finish(running, "stop")
            return
        answer.tokens.append(token)
        if running.text is not None:
            answer.give(running.text.add(token))
        if running.text is not None and running.text.stopped:
            self._finish(running, "stop")
        elif len(answer.tokens) >= request.max_tokens or len(sequence.tokens) + 1 >= self.generation.context:
            self._finish(running, "length")
        else:
            self._batcher.append(sequence, token)

    def _finish(self, running: _Running, why: str) -> None:
        if running.text is not None:
            running.answer.give(running.text.finish())
        self._free(running, why)

    def _free(self, running: _Running, why: str) -> None:
        self._batcher.drop(running.sequence)
        del self._running[running.sequence.slot]
        self._end(running.answer, why)

    def _end(self, answer: Answer, why: str) -> None:
        """Whoever asked is the only one who keeps it."""
        if not answer.done:
            answer.end(why)
            self.tally.add(answer)


class TextFeeder:
    """Writes the messages."""

    def __init__(self, ends: TextEnds) -> None:
        self._ends = ends
        self._num_slots = ends.generation.slots
        self.busy = Series()
        self.begin_ns = 0
        self.useful = self.computed = 0

    def send(self, epoch: int, link: Producer, first: int) -> None:
        while True:
            slot = link.acquire()  # before the rows are chosen: more of them are there to choose from
            taken = self._ends.take(epoch)
            if taken is None:
                break
            begin_ns = perf_counter_ns()
            number, rows = taken
            self._fill(slot, rows)
            slot.write_header(number, len(rows))
            link.publish(slot)
            self.busy.add(perf_counter_ns() - begin_ns)
        slot.write_header(self._ends.next_number(), 0, END)
        link.publish(slot)

    def _fill(self, slot: Slot, rows: tuple[Row, ...]) -> None:
        width = max(row.count for row in rows)
        slot.resize(tuple(len(rows) if name == "batch" else width for name in slot.layout.dims))
        named = slot.named()
        # as numpy's: each of torch's operators takes ten times as long, while all stages wait for one stream's message
        ids, positions, slots = (named[name].numpy() for name in ("input_ids", "positions", "slots"))
        if any(row.count < width for row in rows):
            ids.fill(0)
            positions.fill(-1)
        for index, row in enumerate(rows):
            end = row.start + row.count
            ids[index, : row.count] = row.sequence.tokens[row.start : end]
            positions[index, : row.count] = range(row.start, end)
            slots[index] = slot_value(row.sequence.serial, row.sequence.slot, self._num_slots)
        self.useful += sum(row.count for row in rows)
        self.computed += width * len(rows)


class TextCollector(CollectingEnd):
    """Reads the results."""

    def __init__(self, ends: TextEnds) -> None:
        super().__init__()
        self._ends = ends

    def collect(self, epoch: int, link: Consumer) -> None:
        while True:
            slot = link.get()
            header = slot.read_header()
            if header.end:
                return
            self.mark(perf_counter_ns())
            count = self._ends.results(epoch, header.sequence, slot)
            self.num_items += count
            self.rates.add(count, self.last_ns)
            self.busy.add(perf_counter_ns() - self.last_ns)
            link.release(slot)
