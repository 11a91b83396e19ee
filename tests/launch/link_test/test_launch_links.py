"""`edgelaunch links`: what it measures, what it writes, and that it ends when a rank does."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import launch_plans
import pytest
import yaml
from launch_harness import PROGRAM, Running, processes_of, rank_process, run, wait_all
from launch_plans import Written

from edgecompile.contract.cluster import Limits, SpareHost
from edgecompile.contract.plan import Plan
from edgelaunch.link_test.hosts_option import Figures, hosts_option, print_links

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def on_local_devices(plan: Plan) -> Plan:
    """The tests' own kind of device by the name of one that the compiler knows."""
    return replace(
        plan,
        hosts=tuple(replace(host, device="local") for host in plan.hosts),
        devices=tuple(replace(device, name="local") for device in plan.devices),
        units=tuple(replace(unit, time_s={"local": 0.001}) for unit in plan.units),
        boundaries=tuple(
            replace(boundary, encode_s={"local": {"fp32": 0.0}}, decode_s={"local": {"fp32": 0.0}})
            for boundary in plan.boundaries
        ),
    )


def slow_link_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slow_link", BENCHMARKS / "slow_link.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["slow_link"] = module
    spec.loader.exec_module(module)
    return module


slow_link = slow_link_module()


def found(rate: float, pairs: dict[tuple[int, int], float] | None = None) -> dict[tuple[int, int], Figures]:
    """Three hosts, all pairs at `rate` but those named."""
    rates = {(a, b): rate for a in range(3) for b in range(3) if a != b} | (pairs or {})
    return {pair: Figures(bandwidth_bytes_per_s=value, latency_s=3e-4) for pair, value in rates.items()}


def test_one_rate_a_host_where_that_says_it_all(three_stages: Written) -> None:
    slow_host = {(2, 0): 2.5e6, (2, 1): 2.45e6, (0, 2): 2.5e6, (1, 2): 2.48e6}
    option = yaml.safe_load(hosts_option(three_stages.plan, found(1e7, slow_host)))
    assert option["network"] == {"model": "host", "latency": "300us"}
    assert [member["bandwidth"] for member in option["members"].values()] == ["80.0Mbps", "80.0Mbps", "20.0Mbps"]


def test_a_rate_a_pair_where_one_way_differs(three_stages: Written) -> None:
    option = yaml.safe_load(hosts_option(three_stages.plan, found(1e7, {(1, 2): 0.94e7})))
    assert option["network"]["model"] == "pairwise"
    assert option["network"]["pairs"]["host-1->host-2"] == {"bandwidth": "75.2Mbps", "latency": "300us"}
    assert len(option["network"]["pairs"]) == 6


def test_hosts_that_the_plan_leaves_out_are_named(three_stages: Written) -> None:
    spare = SpareHost(name="pi-9", address="127.0.0.1", port=29999, device="cpu", threads=1,
                      limits=Limits(memory_bytes=1 << 30))  # fmt: skip
    text = hosts_option(replace(three_stages.plan, unused_hosts=(spare,)), found(1e7))
    assert "# not measured, since the plan leaves them unused: pi-9" in text


def test_what_is_written_compiles(tmp_path: Path) -> None:
    plan = launch_plans.three_stages(tmp_path / "plan", change=on_local_devices)
    output = tmp_path / "conf" / "hosts" / "measured.yaml"  # in folders that are not there yet
    ended = run("links", plan.path, "--local", "--seconds", "0.02", "--output", output).expect(0)
    assert "host-2" in ended.out
    assert f"--config-dir {tmp_path / 'conf'} devices=measured" in ended.out
    assert [path.name for path in output.parent.iterdir()] == ["measured.yaml"]
    kinds = yaml.safe_load((tmp_path / "conf" / "devices" / "measured.yaml").read_text())
    assert list(kinds) == ["local"]
    (tmp_path / "wide.py").write_text(
        "import torch\n\n\nclass Wide(torch.nn.Sequential):\n    def __init__(self):\n"
        "        super().__init__(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8))\n"
    )
    words = ["--config-dir", tmp_path / "conf", "devices=measured", "model=custom", "model.build._target_=wide.Wide",
             "model.inputs={x: {shape: [8], dtype: float32}}", "schedule=manual", "schedule.cuts=[1,2]"]  # fmt: skip
    command = Path(sys.executable).with_name("edgecompile")
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # wide.py is found where it lies
    done = subprocess.run([command, *map(str, words)], cwd=tmp_path, timeout=120, capture_output=True, text=True,
                          env=environ)  # fmt: skip
    assert done.returncode == 0, done.stderr
    compiled = yaml.safe_load((tmp_path / "outputs" / "plan.yaml").read_text())
    option = yaml.safe_load(output.read_text())
    assert [host["name"] for host in compiled["hosts"]] == list(option["members"])
    for key in ("peak_flops_per_s", "memory_bytes_per_s", "memory_bytes", "runtime_bytes", "network_bytes_per_s"):
        assert compiled["devices"][0][key] == pytest.approx(getattr(plan.plan.devices[0], key)), key
    if option["network"]["model"] == "pairwise":
        rate = float(option["network"]["pairs"]["host-0->host-1"]["bandwidth"].removesuffix("Mbps")) * 1e6 / 8
        assert compiled["network"]["pairs"][0]["bandwidth_bytes_per_s"] == pytest.approx(rate)


def test_json_is_what_was_measured(three_stages: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "hosts" / "lan.yaml"
    print_links(three_stages.plan, found(1e7, {(1, 2): 0.94e7}), output, quiet=False, as_json=True)
    figures = json.loads(capsys.readouterr().out)
    assert len(figures["links"]) == 6
    slow = next(link for link in figures["links"] if (link["source"], link["destination"]) == ("host-1", "host-2"))
    assert slow["bandwidth_bytes_per_s"] == 0.94e7
    assert figures["files"] == [str(output), str(tmp_path / "devices" / "lan.yaml")]
    assert all(Path(path).is_file() for path in figures["files"])


def test_a_devices_option_of_the_users_own_stays(two_stages: Written, tmp_path: Path) -> None:
    own = tmp_path / "devices" / "lab.yaml"
    own.parent.mkdir()
    own.write_text("box: {memory: 6GB}\n")
    ended = run("links", two_stages.path, "--local", "--output", tmp_path / "hosts" / "lab.yaml").expect(2)
    assert f"{own}: is not a devices option of edgelaunch links, and would be overwritten" in ended.err
    assert own.read_text() == "box: {memory: 6GB}\n"
    assert not (tmp_path / "hosts").exists()


def test_elsewhere_the_devices_that_it_needs_are_said(
    three_stages: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_links(three_stages.plan, found(1e7), tmp_path / "lan.yaml", quiet=False, as_json=False)
    said = capsys.readouterr().out
    assert "hosts=lan devices=... plans with what was measured; the devices option must have cpu" in said
    assert [path.name for path in tmp_path.iterdir()] == ["lan.yaml"]


def test_stdout_is_the_option_alone(two_stages: Written) -> None:
    ended = run("links", two_stages.path, "--local", "--seconds", "0.02").expect(0)
    assert set(yaml.safe_load(ended.out)) == {"network", "members"}
    assert "links, measured" in ended.err


def test_mistakes(two_stages: Written, one_stage: Written, tmp_path: Path) -> None:
    run("links", one_stage.path, "--local").expect_error("only one rank")
    run("links", two_stages.path, "--local", "--seconds", "0").expect_error("invalid value 0 for --seconds")
    run("links", two_stages.path, "--local", "--rank", "1").expect_error("leave out --rank")
    run("links", two_stages.path, "--local", "--output", tmp_path / "no" / "x.yaml").expect_error("no such folder")
    run("links", two_stages.path, "--local", "--output", tmp_path / "x.txt").expect_error("x.txt", ".yaml")
    run("links", tmp_path / "none.yaml").expect_error("none.yaml", "no such plan")


def test_a_killed_rank_ends_all(three_stages: Written, tmp_path: Path) -> None:
    output = tmp_path / "measured.yaml"
    running = Running(["links", three_stages.path, "--local", "--seconds", "100", "--output", output])
    try:
        running.wait_for("(1 of 3)")
        os.kill(rank_process(three_stages.path, 1), signal.SIGKILL)
        running.wait(three_stages.plan.runtime.timeout_s + 3).expect_error("rank 1 (host-1) was killed by SIGKILL")
    finally:
        running.process.kill()
    assert processes_of(three_stages.path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.skipif(slow_link.why_not() is not None, reason=str(slow_link.why_not()))
def test_a_shaped_link_is_found(tmp_path: Path) -> None:
    with slow_link.slow_link("20mbit") as link:
        plan = launch_plans.floats(tmp_path / "plan", addresses=link.address)
        output = tmp_path / "measured.yaml"
        secret = tmp_path / "secret"
        secret.write_text("0123456789abcdef\n")
        secret.chmod(0o600)
        words = ["links", plan.path, "--output", output, "--secret-file", secret]
        started = [Running(words, program=(*link.prefix[rank], *PROGRAM)) for rank in range(2)]
        for ended in wait_all(started):
            ended.expect(0)
    option = yaml.safe_load(output.read_text())
    for member in option["members"].values():
        assert float(member["bandwidth"].removesuffix("Mbps")) == pytest.approx(20.0, rel=0.1)
