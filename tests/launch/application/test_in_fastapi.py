"""The how-to's example of an application that holds a pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import launch_plans
import pytest

fastapi = pytest.importorskip("fastapi", reason="the example is FastAPI's: pip install fastapi")

HOW_TO = Path(__file__).parents[3] / "docs" / "howto.md"


@pytest.mark.slow
def test_an_application_has_one_pipeline_for_all_its_requests(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL) if "FastAPI(" in block
    ]
    plan = launch_plans.floats(tmp_path)
    assert "outputs/plan.yaml" in code
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(code.replace("outputs/plan.yaml", str(plan.path)), str(HOW_TO), "exec"), names)
    with TestClient(names["app"]) as client:
        assert client.post("/one", json=[1, 2, 3, 4]).json() == [4, 8, 12, 16]
        rows = [[number, 0, 0, 0] for number in range(7)]
        lines = client.post("/many", json=rows).text.splitlines()
        assert [json.loads(line) for line in lines] == [[4 * number, 0, 0, 0] for number in range(7)]
        assert client.post("/one", json=["a"]).status_code == 422
        for path, body in (("/one", [1, 2]), ("/many", [[1, 2, 3, 4], [1, 2]])):
            refused = client.post(path, json=body)
            assert refused.status_code == 400
            assert "the model takes float32 (4,)" in refused.json()["detail"]
