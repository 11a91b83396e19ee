"""Both ends of the pipeline over a link that is cut again and again: each item's result comes once and in order."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import launch_varying
import pytest
import torch

from edgecompile.contract.plan import Dim, Plan, TensorSpec
from edgelaunch.common.failures import Abandoned
from edgelaunch.common.items import FLUSH, Entry, Flush, Item, Source
from edgelaunch.common.varying import Varying
from edgelaunch.pipeline.feed import StreamEnds
from edgelaunch.transport.links import LocalLink
from edgelaunch.transport.message_buffers import Layout

NUM_ITEMS, NUM_CUTS = 400, 12


class Kept:
    """Takes results as they come; views of them are good until `add` returns."""

    def __init__(self) -> None:
        self.results: list[tuple[Entry, dict[str, torch.Tensor]]] = []
        self.finished = False

    def add(self, entry: Entry, outputs: Mapping[str, Any]) -> None:
        self.results.append((entry, {name: tensor.clone() for name, tensor in outputs.items()}))

    def finish(self) -> None:
        self.finished = True


def plan_of(folder: Path, kind: str) -> Plan:
    if kind == "batches":
        return launch_varying.batches(folder).plan
    padded = kind != "not padded"
    plan = launch_varying.texts(folder, padded=padded, runtime={"window": 3, "max_wait_s": 0.001}).plan
    if kind != "two dimensions":
        return plan
    inputs = (
        TensorSpec(name="image", shape=(4, 2, 5, 6), dtype="float32", dims=("batch", None, "height", "width")),
        TensorSpec(name="mask", shape=(4, 12), dtype="bool", dims=("batch", "2*width")),
    )
    dims = {"width": Dim(min=2, max=6), "batch": Dim(min=1, max=4), "height": Dim(min=1, max=5)}
    model = replace(plan.model, dims=dims, padding={"image": -1.0, "mask": 0.0})
    return replace(plan, inputs=inputs, model=model)


def item_of(plan: Plan, chance: random.Random) -> dict[str, torch.Tensor]:
    own = {name: chance.randint(1, dim.max) for name, dim in plan.model.dims.items()}
    return {
        spec.name: torch.randint(0, 50, spec.shape_at(own)[1:]).to(getattr(torch, spec.dtype)) for spec in plan.inputs
    }


@pytest.mark.parametrize("kind", ["padded", "not padded", "batches", "two dimensions"])
def test_nothing_is_lost_or_out_of_order_when_links_are_cut(tmp_path: Path, kind: str) -> None:
    """What is fed comes back as it is: the model is left out."""
    plan, chance = plan_of(tmp_path, kind), random.Random(kind)
    fed = [item_of(plan, chance) for _ in range(NUM_ITEMS)]

    def items() -> Iterator[Item | Flush]:
        for index, arrays in enumerate(fed):
            if chance.random() < 0.05:
                yield FLUSH
                time.sleep(0.002)
            yield Item(Entry(index=index), arrays)

    kept = Kept()
    ends = StreamEnds(plan, Source(items=items(), num_items=None, what=""), kept)
    drawing = threading.Thread(target=ends.draw, args=(lambda: True,), daemon=True)
    drawing.start()
    layout = Layout(plan.inputs, b"", plan.model.dims)
    for epoch in range(1, NUM_CUTS + 2):
        link, first = LocalLink(layout, 2), ends.begin(epoch)
        threads = [
            _thread(lambda epoch=epoch, link=link, first=first: ends.feeder.send(epoch, link, first)),
            _thread(lambda epoch=epoch, link=link: ends.collector.collect(epoch, link)),
        ]
        if epoch <= NUM_CUTS:
            time.sleep(chance.random() * 0.01)
            ends.halt()
            link.abandon()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    drawing.join(5)
    assert kept.finished
    assert [entry.index for entry, _ in kept.results] == list(range(NUM_ITEMS))
    for (_, outputs), arrays in zip(kept.results, fed, strict=True):
        assert all(torch.equal(outputs[name], value) for name, value in arrays.items())
    varying = Varying(plan)
    assert ends.feeder.useful == sum(math.prod(varying.extents(arrays)) for arrays in fed) <= ends.feeder.computed


def _thread(work: Callable[[], None]) -> threading.Thread:
    def body() -> None:
        with contextlib.suppress(Abandoned):
            work()

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    return thread
