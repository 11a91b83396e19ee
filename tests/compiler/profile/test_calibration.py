"""The published measurements that boards are calibrated to: every row names what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of

DATA = yaml.safe_load((Path(__file__).parents[3] / "benchmarks" / "calibration.yaml").read_text())


@pytest.mark.parametrize("board", DATA["boards"])
def test_measurements_name_boards_models_and_sources(board: str) -> None:
    conf = compose([f"+board@devices.{board}={board}", f"hosts.members.local.device={board}"])
    assert cluster_of(conf).devices[0].name == board
    for group in DATA["boards"][board]:
        assert group["source"] in DATA["sources"]
        assert group.get("dtype", "float32") in conf.devices[board].peak
        assert group.get("fitted", True) or group["why"]
        for model, value in (group.get("seconds") or group["per_s"]).items():
            assert model in DATA["models"]
            assert all(item > 0 for item in (value if isinstance(value, list) else [value]))


@pytest.mark.slow
@pytest.mark.parametrize("model", DATA["models"])
def test_measured_models_compose(model: str) -> None:
    assert compose(DATA["models"][model]).model.inputs
