"""Every option composes; every mistake is one line that names the key, the value and what is allowed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from compiler_helpers import SMALL_DEIT, Command, Compile, command, hand_written

import edgecompile.conf
from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.config.model_spec import model_of
from edgecompile.config.readiness import OLDEST_PYTHON
from edgecompile.contract.errors import UserError
from edgecompile.contract.quantities import (
    format_bytes,
    format_count,
    format_items_rate,
    format_number,
    format_rate,
    format_time,
    parse_bytes,
    parse_flops,
    parse_rate,
    parse_time,
)
from edgecompile.explore.show import plan_tables

CONF = Path(next(iter(edgecompile.conf.__path__)))


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in options("model") if name not in ("custom", "transformers")])
def test_every_model_composes(name: str) -> None:
    conf = compose([f"model={name}", "weights=x"])
    assert conf.model.name == name
    assert model_of(conf.model).inputs if conf.model.inputs else name == "pretrained"


@pytest.mark.slow
@pytest.mark.parametrize("name", options("devices"))
def test_every_cluster_composes(name: str) -> None:
    cluster = cluster_of(compose([f"devices={name}"]))
    assert len(cluster.hosts) >= 2
    assert {host.device for host in cluster.hosts} == {device.name for device in cluster.devices}


@pytest.mark.parametrize("name", options("board"))
def test_every_board_composes(name: str) -> None:
    board = [] if name == "local" else [f"+board@devices.{name}={name}"]
    cluster = cluster_of(compose([*board, f"hosts.members.local.device={name}"]))
    assert cluster.devices[0].peak_flops_per_s > 0
    assert name == "local" or compose([f"+board@devices.{name}={name}"]).devices[name].source


@pytest.mark.slow
@pytest.mark.parametrize("name", options("board"))
def test_every_board_says_where_its_figures_come_from(name: str) -> None:
    device = compose([] if name == "local" else [f"+board@devices.{name}={name}"]).devices[name]
    assert device.dtype in device.peak
    assert all(parse_flops(value, "peak") > 0 for value in device.peak.values())
    assert name == "local" or device.python
    head = (CONF / "board" / f"{name}.yaml").read_text().split("execution:")[0].replace("\n# ", " ").lower()
    assert name == "local" or "calibrated" in head


@pytest.mark.slow
def test_a_board_that_can_only_be_planned_for_is_named(compile_here: Compile) -> None:
    words = ["model=custom", "model.build._target_=hand_written.Tied", "model.inputs={ids: {shape: [7], dtype: int64}}",
             "microbatch=1"]  # fmt: skip
    plan = compile_here(*words, "devices=jetson_legacy", "hosts.count=1")
    (note,) = plan.notes
    assert note.startswith("agx-xavier (jetson_agx_xavier) can only be planned for")
    assert "Python 3.8, and edgelaunch needs 3.10" in note
    assert note in list(plan_tables(plan))
    assert compile_here(*words, "devices=local", "hosts.count=1").notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("group", ["schedule", "profile", "data", "wire", "artifact"])
def test_every_other_option_composes(group: str) -> None:
    for name in options(group):
        assert compose([f"{group}={name}"])


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes(name: str) -> None:
    assert compose([f"experiment={name}"])


def test_an_experiments_values_count() -> None:
    conf = compose(["experiment=vit_large_mixed"])
    assert (conf.model.name, conf.microbatch) == ("vit_large", 8)
    assert compose(["experiment=vit_large_mixed", "microbatch=2"]).microbatch == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", options("devices"))
def test_default_clusters_hold_only_boards_that_run_ranks(name: str) -> None:
    """jetson_legacy has the others, and no others."""
    cluster = cluster_of(compose([f"devices={name}"]))
    runs = {device.python is None or device.python >= OLDEST_PYTHON for device in cluster.devices}
    assert runs == {name != "jetson_legacy"}
    assert set(compose([f"devices={name}"]).devices) == {host.device for host in cluster.hosts}


def test_hosts_follow_devices() -> None:
    assert "orin-nx-1" in compose(["devices=jetson_cluster"]).hosts.members
    assert list(compose(["devices=jetson_cluster", "hosts=local", "+board@devices.local=local"]).hosts.members)


def test_quantities() -> None:
    assert parse_bytes("4GB", "k") == 4_000_000_000
    assert parse_bytes("512 MiB", "k") == 512 * 2**20
    assert parse_rate("50Mbps", "k") == 50e6 / 8
    assert parse_rate("25.6GB/s", "k") == 25.6e9
    assert parse_flops("472 GFLOPS", "k") == 472e9
    assert parse_time("12us", "k") == pytest.approx(12e-6)
    with pytest.raises(UserError, match="unknown unit 'Mb'"):
        parse_rate("50Mb", "hosts.x.bandwidth")
    for bad in ("", "x", "-1Mbps", "nan", "1e400", None, True, [1]):
        with pytest.raises(UserError, match=r"hosts\.x"):
            parse_rate(bad, "hosts.x")


def test_figures_are_written_for_people() -> None:
    """Three digits in the unit that fits, whatever the size, and never an exponent."""
    assert [format_count(value) for value in (0, 12, 4321, 999_999, 5_717_416, 304_326_632, 1_100_000_000)] == [
        "0", "12", "4,321", "999,999", "5.72 M", "304 M", "1.1 G",
    ]  # fmt: skip
    assert [format_items_rate(value) for value in (0, 0.00123, 9.996, 56.72, 702.4, 10_234.5, 1.234e6)] == [
        "0 items/s", "0.00123 items/s", "10 items/s", "56.7 items/s", "702 items/s", "10,200 items/s",
        "1.23 M items/s",
    ]  # fmt: skip
    assert format_items_rate(49.5283, 4) == "49.53 items/s"
    assert [format_bytes(value) for value in (0, 999, 999.6, 1e6 - 1, 1.5e9, 3e12)] == [
        "0 B", "999 B", "1 kB", "1 MB", "1.5 GB", "3 TB",
    ]  # fmt: skip
    assert [format_time(value) for value in (0, 3e-9, 2.5e-5, 0.9996, 12.34, 4000)] == [
        "0 s", "3 ns", "25 us", "1 s", "12.3 s", "4,000 s",
    ]  # fmt: skip
    assert format_rate(117.5e6) == "940 Mbit/s"
    for power in range(-11, 17):
        text = format_number(2.5 * 10.0**power)
        assert "e" not in text, text


BAD = [
    (["model=vit_bse"], ["model/vit_bse", "vit_base"]),
    (["devices=jetson"], ["devices/jetson", "jetson_cluster"]),
    (["nonsense=1"], ["nonsense"]),
    (["microbach=4"], ["microbach: no such key", "did you mean microbatch?"]),
    (["+microbach=4"], ["microbach: no such key", "did you mean microbatch?"]),
    (["modle=vit_base"], ["modle: no such key", "did you mean model?"]),
    (["detect=3s"], ["did you mean runtime.detect?"]),
    (["runtime.detct=3s"], ["runtime.detct: no such key", "did you mean detect?"]),
    (["+devices.local.memry=3GB"], ["devices.local.memry: no such key", "did you mean memory?"]),
    (["hosts.members.lcal.bandwidth=5Mbps"], ["hosts.members.lcal", "did you mean local?"]),
    (["hosts.members.local.device=locl"], ["no device kind 'locl'", "did you mean local?"]),
    (["model=vit_bse"], ["did you mean vit_base?"]),
    (["devices=jetson"], ["did you mean jetson_cluster or jetson_legacy?"]),
    (["capture=exprt"], ["did you mean export?"]),
    (["data.kind=imag"], ["did you mean image?"]),
    (["profile.outside=analytik"], ["did you mean analytic?"]),
    (["passes.fold=false"], ["did you mean fold_constants or fold_literals or fold_prefixes?"]),
    (["schedule.constraints.exclude=[locla-1]", *hand_written("Tied")], ["did you mean local-1?"]),
    (["schedule=manual", "schedule.cuts=[mixr]", *hand_written("Tied")], ["did you mean mixer?"]),
    (["wire.format=in8", *hand_written("Tied")], ["did you mean int8"]),
    (["--mutlirun", "seed=1"], ["unrecognized argument --mutlirun", "did you mean --multirun?"]),
    (["--quite"], ["did you mean --quiet?"]),
    (["--config-dir"], ["--config-dir", "expected one argument"]),
    (["seed"], ["seed: expected KEY=VALUE"]),
    (["microbatch=0"], ["microbatch", "0", "1 to 1,048,576, or auto"]),
    (["microbatch=many"], ["microbatch", "many"]),
    (["microbatch=-3"], ["microbatch"]),
    (["capture=jit"], ["capture", "jit", "symbolic_trace"]),
    (["microbatch=99999999999999999999"], ["microbatch", "99999999999999999999", "1 to 1,048,576, or auto"]),
    (["hosts.count=0"], ["0 for hosts.count", "1 or more"]),
    (["devices=jetson_cluster", "hosts.count=9"], ["hosts.count", "9", "1 to 6"]),
    (["hosts.members.local.bandwidth=fast"], ["hosts.members.local.bandwidth", "fast"]),
    (["hosts.members.local.device=pi"], ["hosts.members.local.device", "pi", "local"]),
    (["devices.local.peak.float32=12GB"], ["devices.local.peak.float32", "12GB", "GFLOPS"]),
    (["devices.local.python=new"], ["devices.local.python", "new"]),
    (["schedule=best"], ["schedule/best", "exact"]),
    (["weights=nowhere.npz", *SMALL_DEIT], ["weights", "nowhere.npz"]),
    (["model=transformers"], ["architecture"]),
    (["model=transformers", "model.build.architecture=BertModl", "model.inputs={x: {shape: [1], dtype: int64}}"],
     ["BertModl", "BertModel"]),
    (["+model.build.config.hiden_size=4", "model=deit_tiny"], ["hiden_size", "hidden_size"]),
    (["passes.fold=false", *SMALL_DEIT], ["passes.fold", "fold_constants"]),
    (["hosts.members.local.memory=165MB", *SMALL_DEIT], ["local-2", "MB", "short by"]),
    (["model.output=logit", *SMALL_DEIT], ["model.output", "logits"]),
    (["model=custom", "model.build._target_=nowhere.Model", "model.inputs={x: {shape: [4], dtype: float32}}"],
     ["nowhere"]),
    (["data.top_k=0", *SMALL_DEIT], ["top_k"]),
    (["data.tokenizer=nowhere.json", "model=minilm",
      "++model.build.config={hidden_size: 24, num_hidden_layers: 1, intermediate_size: 48, vocab_size: 64}"],
     ["data.tokenizer", "nowhere.json"]),
]  # fmt: skip


def check_mistake(done: subprocess.CompletedProcess[str], words: list[str], folder: Path) -> None:
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert last.startswith("edgecompile: ")
    assert all(word in last for word in words), last
    assert not list(folder.rglob("plan.yaml"))
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "words"), BAD, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_one_line_and_exit_2(
    main_here: Command, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    check_mistake(main_here(*overrides), words, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("override", ["model=vit_bse", "microbatch=0", "model.output=logit"])
def test_the_command_itself_ends_so_too(tmp_path: Path, override: str) -> None:
    """Found by Hydra, by ourselves, and after torch and the model were there."""
    overrides, words = next(item for item in BAD if item[0][0] == override)
    check_mistake(command("edgecompile.commands.compile_command", *overrides, folder=tmp_path), words, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("Random", "{x: {shape: [4], dtype: float32}}", "random"),
        ("DataDependent", "{x: {shape: [4], dtype: float32}}", "cannot trace"),
        ("Unbatched", "{x: {shape: [4], dtype: float32}}", "first dimension"),
        ("Tied", "{ids: {shape: [7], dtype: int64, high: 5000}}", "index out of range"),
        ("Forked", "{y: {shape: [4], dtype: float32}}", r"model\.inputs"),
    ],
)
def test_models_that_cannot_be_compiled(compile_here: Compile, name: str, inputs: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compile_here("model=custom", f"model.build._target_=hand_written.{name}", f"model.inputs={inputs}",
                     "microbatch=3")  # fmt: skip
