"""Handles results on the data host: compares, writes, counts and prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.user_files import printable
from edgecompile.contract.plan import Plan
from edgelaunch.common.items import Entry
from edgelaunch.inputs.labels import NO_LABEL, Accuracy, predicted_class, top_labels
from edgelaunch.outputs.golden_comparison import Verifier
from edgelaunch.outputs.reference_comparison import Reference
from edgelaunch.outputs.result_files import Writer, as_numpy

__all__ = ["ResultHandler"]

NUM_SHOWN = 5
MAX_NAME = 60


class ResultHandler:
    """Sends golden results to the verifier and the others to the writer, the accuracy and the summary."""

    def __init__(
        self,
        plan: Plan,
        verifier: Verifier | None,
        reference: Reference | None,
        writer: Writer | None,
        progress: Callable[[int], None],
        show: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`show` is called with a line about each of the first results, in a run without an output file."""
        self._plan, self._verifier, self._reference = plan, verifier, reference
        self.writer, self._progress, self._show = writer, progress, show
        self.accuracy = Accuracy()
        self._distrusted = False
        self.num_items = 0
        self._num_shown = 0

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        if entry.stream == "golden":
            assert self._verifier is not None
            self._compare(self._verifier, entry, outputs)
        else:
            self.num_items += 1
            if entry.error is None:
                self._count(entry, outputs)
            if self._reference is not None and entry.error is None:
                self._compare(self._reference, entry, outputs)
            if self.writer is not None:
                self.writer.add(entry, outputs)
            elif self._num_shown < NUM_SHOWN:
                self._num_shown += 1
                self._show(self._line(entry, outputs))
        self._progress(1)

    def finish(self) -> None:
        if self._reference is not None:
            self._reference.finish()
        if self.writer is not None:
            self.writer.finish()
            self.writer = None

    def discard(self) -> None:
        """The run failed: nothing stays but what another run can resume."""
        if self.writer is not None:
            self.writer.discard(keep=not self._distrusted)

    def _compare(self, judge: Verifier | Reference, entry: Entry, outputs: Mapping[str, Any]) -> None:
        try:
            judge.add(entry, outputs)
        except UserError:
            self._distrusted = True
            raise

    def _count(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        data = self._plan.data
        if entry.label is not None and data.result == "labels" and data.scores is not None:
            self.accuracy.add(predicted_class(as_numpy(outputs[data.scores])), entry.label)

    def _line(self, entry: Entry, outputs: Mapping[str, Any]) -> str:
        name = printable(entry.name) if entry.name is not None else f"item {entry.index}"
        name = name if len(name) <= MAX_NAME else name[: MAX_NAME - 3] + "..."
        if entry.error is not None:
            return f"{name}: no result: {entry.error}"
        data = self._plan.data
        if data.result == "labels" and data.scores is not None:
            top = top_labels(data, as_numpy(outputs[data.scores]))[:5]
            return f"{name}: " + (", ".join(f"{label} {score:.1%}" for label, score in top) or NO_LABEL)
        parts = [f"{key} {_shape(tensor)} {_numbers(tensor)}" for key, tensor in outputs.items()]
        return f"{name}: " + "; ".join(parts)


def _shape(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _numbers(tensor: Any) -> str:
    flat = as_numpy(tensor).reshape(-1)
    shown = " ".join(f"{value:.4g}" if flat.dtype.kind == "f" else str(value) for value in flat[:4])
    return shown + (" ..." if flat.size > 4 else "")
