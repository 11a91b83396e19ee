"""plan.yaml: what is wrong in it is named; what is written is whole, deterministic and below its folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from compiler_helpers import command, compile_into, hand_written

from edgecompile import __version__
from edgecompile.commands.compile_command import compose, recorded_overrides
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan_file import read_plan
from edgecompile.pipeline import compile_model
from edgecompile.terminal.console import steps

TINY = (*hand_written("Tied"), "microbatch=1")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan as the compiler writes it."""
    folder = tmp_path_factory.mktemp("plan")
    compile_into(folder, *TINY, "schedule=even")
    return folder / "plan.yaml"


@pytest.fixture(scope="module")
def document(written: Path) -> dict[str, Any]:
    return yaml.safe_load(written.read_text())


def change(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target: Any = changed
    for part in parents:
        target = target[part]
    if value is KeyError:
        del target[last]
    else:
        target[last] = value
    return changed


def test_a_plan_of_fixed_shapes_and_whole_shards_has_the_keys_that_the_first_version_reads(tmp_path: Path) -> None:
    compile_into(tmp_path, *TINY, "schedule=even", "artifact.bundle=true")
    document = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    assert document["version"] == 1
    assert set(document) == {
        "version", "model", "objective", "predicted", "certificate", "hosts", "unused_hosts", "cluster", "devices",
        "network", "runtime", "inputs", "outputs", "data", "golden", "stages", "scheduling", "boundaries",
        "shared_weights", "units", "notes", "contingencies", "provenance",
    }  # fmt: skip
    assert set(document["model"]) == {"name", "microbatch", "num_parameters", "weights", "capture"}
    assert set(document["runtime"]) == {
        "num_buffers_in", "num_buffers_out", "timeout_s", "detect_s", "rejoin_s", "prepack", "imports",
    }  # fmt: skip
    assert set(document["inputs"][0]) == {"name", "shape", "dtype", "wire"}
    assert set(document["boundaries"][1]) == {"boundary", "wire_bytes", "encode_s", "decode_s"}
    assert set(document["stages"][0]) == {
        "stage", "rank", "units", "first_op", "last_op", "shard", "sha256", "artifact", "inputs", "outputs",
        "predicted",
    }  # fmt: skip


BROKEN = [
    ("version", 3, "version is 3.*reads the versions 1 and 2"),
    ("version", KeyError, "version is None"),
    ("stages.0.units", [0, 99], r"stages\.0\.units.*no gap and no overlap"),
    ("stages.1.units", [3, 4], r"stages\.1\.units"),
    ("stages.1.rank", 0, r"stages\.1\.rank.*without a stage"),
    ("stages.1.rank", 7, r"stages\.1\.rank"),
    ("stages.0.shard", "../../etc/passwd", r"stages\.0\.shard.*below the plan"),
    ("stages.0.shard", "/etc/passwd", r"stages\.0\.shard"),
    ("stages.0.sha256", "abc", r"stages\.0\.sha256.*64 hexadecimal"),
    ("stages.0.weights.0", "../../etc/passwd", r"stages\.0\.weights\.0.*64 hexadecimal"),
    ("stages.0.artifact", "pickle", r"stages\.0\.artifact"),
    ("stages.1.inputs.0.dtype", "object", r"stages\.1\.inputs\.0\.dtype"),
    ("stages.1.inputs.0.shape", [1, 2], r"stages\.1\.inputs.*the outputs of the stage before"),
    ("stages.0.predicted.memory_bytes", -1, r"stages\.0\.predicted\.memory_bytes"),
    ("hosts.0.port", 70000, r"hosts\.0\.port.*65535"),
    ("hosts.1.rank", 5, r"hosts\.1\.rank"),
    ("hosts.1.name", "local-1", r"hosts\.0\.name"),
    ("hosts.0.limits.memory_bytes", "much", r"hosts\.0\.limits\.memory_bytes.*whole number"),
    ("hosts", [], "hosts.*one host or more"),
    ("hosts.0.limits.bandwidth_bytes_per_s", 0, r"hosts\.0\.limits\.bandwidth_bytes_per_s.*1e-09 to 2\^62 bytes a s"),
    (
        "hosts.0.limits.bandwidth_bytes_per_s",
        1e-320,
        r"invalid value 1e-320 for hosts\.0\.limits\.bandwidth_bytes_per_s",
    ),
    (
        "hosts.0.limits.bandwidth_bytes_per_s",
        1e-9,
        r"boundaries: \d+ bytes at 1e-09 bytes a second add up to .* in all",
    ),
    ("hosts.0.limits.memory_bytes", (1 << 62) + 1, r"hosts\.0\.limits\.memory_bytes.*at most 2\^62"),
    ("devices.0.network_bytes_per_s", 1e-320, r"devices\.0\.network_bytes_per_s"),
    ("network.latency_s", 1e6, r"network\.latency_s.*0 to 576461 s"),
    ("network.latency_s", 5e5, r"network: latencies add up to 2e\+06 s: expected less than 576461 s in all"),
    ("units.0.time_s.local", 1e6, r"units\.0\.time_s\.local.*0 to 576461 s"),
    ("units.0.time_s.local", 576460.7523, r"units: their times add up to 5.765e\+05 s"),
    ("units.0.weight_bytes", (1 << 62) + 1, r"units\.0\.weight_bytes.*0 to 2\^62 bytes"),
    ("boundaries.1.encode_s.local.int8", 1e6, r"boundaries\.1\.encode_s\.local"),
    ("scheduling.latency_limit_s", 1e300, r"scheduling\.latency_limit_s.*at most 576461"),
    ("runtime.detect_s", 1e300, r"runtime\.detect_s.*at most 576461"),
    ("predicted.period_s", 0.0, r"predicted\.period_s.*greater than 0"),
    ("hosts.0.device", "abacus", r"hosts\.0\.device.*one of local"),
    ("cluster", ["local-2", "local-1"], r"cluster\.0.*data host, local-1"),
    ("cluster", ["local-1"], "cluster.*names of all hosts"),
    ("devices.0.peak_flops_per_s", 0, r"devices\.0\.peak_flops_per_s"),
    ("network.bandwidth_bytes_per_s", 5.0, r"network\.bandwidth_bytes_per_s.*else null"),
    ("network.latency_s", -1.0, r"network\.latency_s"),
    (
        "network.pairs",
        [{"source": "local-1", "destination": "local-2", "bandwidth_bytes_per_s": 1.0, "latency_s": 0}],
        r"network\.pairs.*not pairwise",
    ),
    ("boundaries.0.wire_bytes", {"int8": 7}, r"boundaries\.0\.wire_bytes.*fp32"),
    ("boundaries.1.encode_s.local.int8", -1.0, r"boundaries\.1\.encode_s\.local"),
    ("boundaries.1.decode_s", {}, r"boundaries\.1\.decode_s.*local"),
    ("units.0.boundary", 99, r"units\.0\.boundary"),
    ("units.0.time_s", {"abacus": 1.0}, r"units\.0\.time_s.*local"),
    ("shared_weights.0.units", [99], r"shared_weights\.0\.units"),
    ("scheduling.wire", "morse", r"scheduling\.wire.*int8"),
    ("scheduling.per_cut", ["int8", "int8", "int8"], r"scheduling\.per_cut"),
    ("scheduling.exclude", ["nobody"], r"scheduling\.exclude\.0"),
    ("scheduling.together", [[0, 99]], r"scheduling\.together\.0"),
    ("scheduling.max_hosts", 0, r"scheduling\.max_hosts"),
    ("objective", "fun", "objective.*period"),
    ("golden.file", "a/../../b", r"golden\.file"),
    ("golden.tolerance", {}, r"golden\.tolerance"),
    ("model.microbatch", 0, r"model\.microbatch"),
    ("model.microbatch", True, r"model\.microbatch"),
    ("predicted.period_s", float("nan"), r"predicted\.period_s.*finite"),
    ("outputs.0.shape", [3, 7, 50], r"outputs\.0\.shape.*first extent"),
    ("data.kind", "sound", r"data\.kind"),
    ("runtime.timeout_s", 0, r"runtime\.timeout_s"),
    ("runtime.prepack", "sometimes", r"invalid value 'sometimes' for runtime\.prepack: expected one of"),
    ("units.0.flops", -5, r"units\.0\.flops"),
    ("nonsense", 1, "unknown key nonsense"),
    ("stages.0.nonsense", 1, r"unknown key stages\.0\.nonsense"),
    ("stages.0.sha256", KeyError, r"stages\.0\.sha256 is missing"),
    ("stages", {}, "stages.*a list"),
    ("network.model", "carrier pigeon", r"network\.model"),
]


@pytest.mark.parametrize(("path", "value", "message"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_broken_rule_is_named(document: dict[str, Any], tmp_path: Path, path: str, value: Any, message: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(change(document, path, value)))
    with pytest.raises(UserError, match=message):
        read_plan(file)


def test_a_key_of_a_later_edgecompile_names_its_version(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    for writer, more in (("999.1.0", "; edgecompile 999.1.0 wrote it, and this is .*: install that version here"),
                         (__version__, "$"), ("0.0.1", "$"), ("x", "$"), (999, "$")):  # fmt: skip
        provenance = {"edgecompile": writer, "torch": "2", "python": "3", "overrides": []}
        file.write_text(yaml.safe_dump(document | {"provenance": provenance, "nonsense": 1}))
        with pytest.raises(UserError, match=rf"unknown key nonsense: the keys here are [a-z_, ]*{more}"):
            read_plan(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "top level must be a mapping"),
        (b"[1, 2]", "top level must be a mapping"),
        (b"version: 1\nmodel: {", "not a readable plan"),
        (b"version: 1\nversion: 1\n", "duplicate key"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a: &a [1]\nb: *a\n", "aliases"),
        (b"!!python/object/apply:os.system ['true']", "not a readable plan"),
        (b"x: " + b"[" * 20000, "not a readable plan"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_plan(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_plan(file)


def test_missing_plan_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such plan"):
        read_plan(tmp_path / "plan.yaml")
    with pytest.raises(UserError, match="is a folder"):
        read_plan(tmp_path)


@pytest.mark.slow
def test_the_same_config_gives_the_same_bytes(tmp_path: Path) -> None:
    """Here, again in the same process, and in another process and folder."""
    texts, asked = [], [*TINY, "schedule=even", "seed=3"]
    for _ in range(2):
        conf = compose([*asked, f"output_dir={tmp_path / 'outputs'}"])
        compile_model(conf, steps, recorded_overrides(asked))
        texts.append((tmp_path / "outputs" / "plan.yaml").read_bytes())
    other = tmp_path / "another folder"
    other.mkdir()
    done = command("edgecompile.commands.compile_command", *TINY, "schedule=even", "seed=3", folder=other,
                   path=Path(__file__).parents[1])  # fmt: skip
    assert done.returncode == 0, done.stderr
    texts.append((other / "outputs" / "plan.yaml").read_bytes())
    assert texts[0] == texts[1] == texts[2]
    here, there = (
        sorted(path.name for path in (folder / "outputs" / "shards").iterdir()) for folder in (tmp_path, other)
    )
    assert here == there


def test_edgeplan_show(written: Path, tmp_path: Path) -> None:
    done = command("edgecompile.commands.plan_command", "show", str(written), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "local-2" in done.stdout
    assert "items/s" in done.stdout
    done = command("edgecompile.commands.plan_command", "show", "nowhere.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
