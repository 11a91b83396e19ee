"""Axes have round numbers, and a curve goes where its numbers are."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.drawing.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH, bars, curve, rates_over_time, ticks


@given(st.floats(1e-6, 1e9))
def test_ticks_are_round_and_few(largest: float) -> None:
    found = ticks(largest)
    assert found[0] == 0
    assert 3 <= len(found) <= 7
    assert found[-1] <= largest * (1 + 1e-9)
    digits = f"{found[1]:.6e}".partition("e")[0].rstrip("0").rstrip(".")
    assert digits in ("1", "2", "5")


def test_a_curve_has_axes_and_a_legend_and_the_predicted_line() -> None:
    text = curve([(0.0, 10.0), (5.0, 20.0), (10.0, 10.0)], 20.0)
    root = ElementTree.fromstring(text.partition("</svg>")[0] + "</svg>")
    (line,) = root.iter("polyline")
    places = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert [x for x, _ in places] == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT])
    assert places[0][1] == places[2][1] > places[1][1] > TOP
    (predicted,) = (item for item in root.iter("line") if item.attrib["class"] == "predicted")
    assert float(predicted.attrib["y1"]) == pytest.approx(places[1][1])
    assert all(0 <= y <= HEIGHT for _, y in places)
    words = [item.text for item in root.iter("text")]
    assert {"items/s", "seconds", "0", "20", "10"} <= set(words)
    assert "measured" in text
    assert "predicted, 20 items/s" in text


def test_bars_say_which_is_which_where_there_are_two() -> None:
    assert "measured" in bars([("a", 1.0, 2.0)])
    assert "measured" not in bars([("a", 1.0, None)])


def test_rates_leave_out_the_last_stretch_which_is_not_whole() -> None:
    assert rates_over_time(0.5, [2, 4, 2, 4, 1], 1)[0] == (pytest.approx(0.25), 4.0)
    assert max(rate for _, rate in rates_over_time(0.5, [2, 4, 1], 1)) == 8.0
