"""What a board is, by what it calls itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgecompile.conf
from edgelaunch.boards.board_facts import KINDS, BoardFacts, kind_of, own_facts


@pytest.mark.parametrize(
    ("model", "processor", "kind"),
    [("Raspberry Pi 5 Model B Rev 1.0", "", "raspberry_pi_5"), ("Raspberry Pi 4 Model B Rev 1.4", "", "raspberry_pi_4"),
     ("Raspberry Pi Compute Module 4 Rev 1.1", "", "raspberry_pi_4"),
     ("Raspberry Pi 3 Model B Plus Rev 1.3", "", "local"),
     ("NVIDIA Jetson AGX Orin Developer Kit", "", "jetson_agx_orin"),
     ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "", "jetson_orin_nx"),
     ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "", "jetson_orin_nano_super"),
     ("NVIDIA Jetson Orin Nano Developer Kit", "", "jetson_orin_nano"), ("Jetson-AGX", "", "jetson_agx_xavier"),
     ("NVIDIA Jetson Xavier NX Developer Kit", "", "jetson_xavier_nx"),
     ("NVIDIA Jetson Nano Developer Kit", "", "jetson_nano"),
     ("quill", "", "jetson_tx2"), ("MinnowBoard Turbot", "Intel(R) Atom(TM)", "minnowboard"),
     ("NUC", "Intel(R) N100", "intel_n100"), ("X570", "AMD Ryzen 9", "local")],
)  # fmt: skip
def test_boards_are_told_by_their_names(model: str, processor: str, kind: str) -> None:
    assert kind_of(model, processor) == kind


def test_a_battery_makes_a_laptop_of_what_is_no_board() -> None:
    assert kind_of("20XW", "Intel(R) Core(TM) i7", battery=True) == "laptop_cpu"
    assert kind_of("Raspberry Pi 5", battery=True) == "raspberry_pi_5"


def test_every_kind_is_one_that_edgecompile_has() -> None:
    folder = Path(edgecompile.conf.__file__).parent / "board"
    for kind in {*KINDS.values(), "local", "laptop_cpu"}:
        assert (folder / f"{kind}.yaml").is_file(), kind


def test_facts_are_read_back() -> None:
    facts = own_facts("pi", "busy with this")
    assert BoardFacts.read(facts.values() | {"later": 1}) == facts
    assert (facts.name, facts.busy) == ("pi", "busy with this")
    assert facts.cores >= 1
    assert facts.memory_bytes > 1 << 20
    for name, bad in (("cores", "4"), ("cores", True), ("name", 7), ("compiles", 1), ("clock_s", None)):
        assert BoardFacts.read(facts.values() | {name: bad}) is None
    assert "\n" not in BoardFacts.read(facts.values() | {"model": "a\nb" * 1000}).model  # type: ignore[union-attr]
