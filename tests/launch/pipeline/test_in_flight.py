"""What is under way is kept until its result is there."""

from __future__ import annotations

from pathlib import Path

import launch_varying
import pytest

from edgelaunch.common.failures import Abandoned
from edgelaunch.common.items import Entry, Item
from edgelaunch.pipeline.in_flight import Batch, Flight
from edgelaunch.pipeline.window import Waiting, Window


def test_what_is_under_way_is_sent_again_and_given_once() -> None:
    flight = Flight()
    assert flight.switch(1) == 0
    for number in range(3):
        flight.put(Batch(number))
        assert flight.take(1) is not None
    flight.end()
    assert flight.take(1) is None
    assert flight.arrive(1, 0).number == 0
    assert flight.switch(2) == 1
    for call in (lambda: flight.arrive(1, 1), lambda: flight.take(1), lambda: flight.under_way(1)):
        with pytest.raises(Abandoned):
            call()
    assert [batch.number for batch in flight.under_way(2)] == [1, 2]
    assert flight.arrive(2, 1).number == 1
    with pytest.raises(AssertionError, match="message 3 came in place of 2"):
        flight.arrive(2, 3)


def test_a_message_is_made_of_the_window_once_and_sent_again_as_it_was(tmp_path: Path) -> None:
    window = Window(launch_varying.texts(tmp_path, runtime={"max_wait_s": 0.0}).plan)
    flight = Flight(window)
    flight.switch(1)
    for place, length in enumerate([9, 9, 3, 9, 3, 9]):
        item = Item(Entry(index=place), {})
        flight.offer(Waiting(item, place, (length,), 0, 0, 0))
    first, second = flight.take(1), flight.take(1)
    assert first is not None
    assert second is not None
    assert (first.places, first.sizes, second.places) == ((0, 1, 3, 5), (4, 9), (2, 4))
    assert flight.switch(2) == 0
    assert flight.under_way(2) == [first, second]
    flight.end()
    assert flight.take(2) is None
    assert not flight.empty()
    assert [flight.arrive(2, number) for number in range(2)] == [first, second]
    assert flight.empty()
