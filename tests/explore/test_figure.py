"""`edgeplan figure`: a plan, several and a sweep as files that papers take, with axes and units."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from explore_plans import make_plan

from edgecompile.commands.plan_command import main
from edgecompile.contract.plan_file import write_plan

BEGINS = {".pdf": b"%PDF-1.", ".png": b"\x89PNG\r\n", ".svg": b"<?xml"}
KINDS = {"quick": [0.01, 0.02, 0.01], "slow": [0.02, 0.04, 0.02]}


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for name, options in (("best", {}), ("through", {"assignments": [(0, 1, 0), (2, 2, 1)]})):
        plan = make_plan(KINDS, [("a", "slow"), ("b", "quick")], [400, 8000, 6000, 40], **options)  # type: ignore[arg-type]
        write_plan(plan, tmp_path / f"{name}.yaml")
    return [str(tmp_path / f"{name}.yaml") for name in ("best", "through")]


@pytest.fixture
def sweep(tmp_path: Path) -> str:
    jobs = [
        {"job": number, "overrides": [f"wire={wire}", "microbatch=4"], "plan": "p", "error": None,
         "throughput_items_per_s": 10.0 + number, "latency_s": 0.2}
        for number, wire in enumerate(("fp32", "int8"))
    ]  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    return str(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", BEGINS)
def test_each_kind_of_file_of_each_kind_of_figure(suffix: str, paths: list[str], sweep: str, tmp_path: Path) -> None:
    for words in ([paths[0]], paths, [sweep]):
        figures = [tmp_path / f"{number}{suffix}" for number in range(2)]
        for figure in figures:
            assert main(["figure", *words, "--output", str(figure), "--quiet"]) == 0
        assert figures[0].read_bytes().startswith(BEGINS[suffix])
        assert figures[0].read_bytes() == figures[1].read_bytes()


def texts(words: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the figure says, from matplotlib's comments."""
    assert main(["figure", *words, "--output", str(path)]) == 0
    assert capsys.readouterr().out == f"figure: {path}\n"
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_stands_in_them(paths: list[str], sweep: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = texts([paths[1]], tmp_path / "one.svg", capsys)
    for text in ("a: units 0-1", "a → b", "b: units 2-2", "b → a", "time of a microbatch (ms)", "time (ms), simulated",
                 "compute", "send", "period", "stage 1 on b"):  # fmt: skip
        assert f"<!-- {text} -->" in one, text
    several = texts(paths, tmp_path / "several.svg", capsys)
    for text in ("throughput (items/s)", "latency (ms)", "largest memory of a stage (MB)", "best.yaml", "through.yaml"):
        assert f"<!-- {text} -->" in several, text
    swept = texts([sweep], tmp_path / "swept.svg", capsys)
    for text in ("throughput (items/s)", "latency of a microbatch (ms)", "wire=int8"):
        assert f"<!-- {text} -->" in swept, text
    assert main(["figure", *paths, "--output", str(tmp_path / "x.svg"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"figure": str(tmp_path / "x.svg"), "of": "comparison"}


def test_what_is_wrong_is_one_line(
    paths: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [{"job": 0, "overrides": [], "error": "no plan"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([paths[0], "--output", "x.gif"], "x.gif: expected a name that ends in .pdf, .png or .svg"),
        ([paths[0], "--output", "nix/x.pdf"], "nix/x.pdf: is a folder, or its folder does not exist"),
        ([paths[0], "--output", "x.pdf", "--microbatches", "0"], "invalid value 0 for --microbatches"),
        (["nix.yaml", "--output", "x.pdf"], "nix.yaml: no such plan"),
        ([str(tmp_path), "--output", "x.pdf"], f"{tmp_path}: a sweep without a plan"),
        ([str(tmp_path / "empty"), "--output", "x.pdf"], f"{tmp_path / 'empty' / 'manifest.json'}: no such manifest"),
    ):
        assert main(["figure", *words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"edgeplan: {message}"), said.err
        assert said.err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["figure", paths[0], "--output", "x.pdf"]) == 2
    assert "figures need matplotlib: pip install 'edgecompile[compile]'" in capsys.readouterr().err
