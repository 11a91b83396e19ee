"""What is under way is kept until its result is there."""

from __future__ import annotations

import pytest

from edgelaunch.common.failures import Abandoned
from edgelaunch.pipeline.in_flight import Batch, Flight


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
