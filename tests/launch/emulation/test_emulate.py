"""What --emulate decides and writes, without root: the control groups are files in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from launch_plans import Written

from edgecompile.contract.cluster import Host, Limits, Network
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgelaunch.commands import launch_command as cli
from edgelaunch.emulation import cgroups, netns
from edgelaunch.emulation import emulated_run as emulate
from edgelaunch.process import processes

FAST, SLOW = 12.5e6, 2.5e6


def cluster(plan: Plan, rates: list[float], shares: list[float | None], model: str = "host") -> Plan:
    """A plan of as many hosts as rates, which are those of their interfaces."""
    hosts: list[Host] = [
        replace(plan.hosts[0], rank=rank, name=f"pi-{rank}",
                limits=Limits(memory_bytes=300_000_000, cpu_share=share, bandwidth_bytes_per_s=rate))
        for rank, (rate, share) in enumerate(zip(rates, shares, strict=True))
    ]  # fmt: skip
    network = Network(model=model, bandwidth_bytes_per_s=FAST if model == "shared" else None, latency_s=1e-4)
    return replace(plan, hosts=tuple(hosts), cluster=tuple(host.name for host in hosts), network=network)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_an_interface_has_its_own_rate(two_stages: Written) -> None:
    plan = cluster(two_stages.plan, [FAST, FAST, SLOW], [0.9, 0.45, 0.225])
    assert emulate.interface_rates(plan) == [FAST, FAST, SLOW]
    assert emulate.interface_rates(two_stages.plan) == [None, None]


def test_a_line_a_host_tells_what_is_emulated(two_stages: Written) -> None:
    lines = emulate.describe(cluster(two_stages.plan, [FAST, SLOW], [0.5, None]))
    assert "2 hosts" in lines[0]
    assert lines[1:] == [
        "rank 0 (pi-0): 0.5 cores, 300 MB, 100 Mbit/s each way",
        "rank 1 (pi-1): all cores, 300 MB, 20 Mbit/s each way",
    ]
    assert (
        "share a channel of 100 Mbit/s" in emulate.describe(cluster(two_stages.plan, [FAST, SLOW], [1, 1], "shared"))[0]
    )
    pairwise = emulate.describe(cluster(two_stages.plan, [FAST, FAST, SLOW], [None] * 3, "pairwise"))
    assert "20 Mbit/s to 100 Mbit/s" in pairwise[0]


def test_what_is_not_emulated_is_said(two_stages: Written) -> None:
    plan = cluster(two_stages.plan, [FAST, FAST], [1000.0, 0.5])
    assert any("1000.5 cores in total" in line for line in emulate.describe(plan))
    slow = replace(plan, network=replace(plan.network, latency_s=0.02))
    assert any("latency of up to 20 ms is not emulated" in line for line in emulate.describe(slow))


@pytest.mark.parametrize(
    ("shares", "cores", "expected"),
    [
        ([0.9, 0.45, 0.225, 0.225], [0, 1], [(0,), (1,), (1,), (1,)]),
        ([0.2, 0.9], [4, 7], [(7,), (4,)]),
        ([0.6, 0.6, 0.6], [0, 1], [(), (), ()]),
        ([0.5, None], [0, 1], [(), ()]),
        ([1.5, 0.3], [0, 1], [(), ()]),
        ([1.0, 1.0], [0, 1], [(0,), (1,)]),
    ],
)
def test_small_shares_are_kept_on_cores_of_their_own(
    shares: list[float | None], cores: list[int], expected: list[tuple[int, ...]]
) -> None:
    assert emulate.pinned_cores(shares, cores) == expected


# --- where it cannot work ---------------------------------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main([str(word) for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture(autouse=True)
def _as_root_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_one_line_where_this_machine_cannot(
    two_stages: Written, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(netns.shutil, "which", lambda name, path: None if name == "tc" else f"/sbin/{name}")
    assert "needs the command tc: install iproute2" in error_of(capsys, two_stages.path, "--emulate")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in error_of(capsys, two_stages.path, "--emulate")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "needs Linux" in error_of(capsys, two_stages.path, "--emulate")


def test_options_that_contradict(two_stages: Written, capsys: pytest.CaptureFixture[str]) -> None:
    assert "give one of them" in error_of(capsys, two_stages.path, "--emulate", "--local")
    assert "leave out --rank" in error_of(capsys, two_stages.path, "--emulate", "--rank", 1)


# --- control groups ---------------------------------------------------------------------------------------------------


def mounted(folder: Path, lines: list[tuple[str, Path, str, str]], own: str) -> Path:
    """A /proc/self whose mounts are (root, mount point, file system, options)."""
    proc = folder / "proc"
    proc.mkdir()
    rows = [f"30 20 0:26 {root} {mount} rw shared:9 - {kind} {kind} {options}" for root, mount, kind, options in lines]
    (proc / "mountinfo").write_text("\n".join(["20 1 8:1 / / rw - ext4 /dev/root rw", *rows]) + "\n")
    (proc / "cgroup").write_text(own)
    return proc


@pytest.fixture
def version_2(tmp_path: Path) -> Path:
    mount = tmp_path / "unified"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (mount / "cgroup.subtree_control").write_text("cpu\n")
    return mount


def test_version_2_limits(tmp_path: Path, version_2: Path) -> None:
    proc = mounted(tmp_path, [("/", version_2, "cgroup2", "rw")], "0::/user.slice/session-1.scope\n")
    group = cgroups.ControlGroup("edgelaunch-1", cgroups.find_controllers(proc))
    folder = version_2 / "edgelaunch-1"
    assert group.folders == (folder,)
    folder.mkdir()
    (folder / "memory.swap.max").write_text("max")
    group.create(cpu_share=0.225, memory_bytes=300_000_000)
    assert (version_2 / "cgroup.subtree_control").read_text() == "+memory"
    written = {file.name: file.read_text() for file in folder.iterdir()}
    assert written == {
        "cpu.max": "4500 20000", "cpu.weight": "22", "memory.max": "300000000", "memory.swap.max": "0",
    }  # fmt: skip
    assert not group.outgrown()
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.outgrown()
    (folder / "memory.events").write_text("max 0\noom_kill 1\n")
    assert not group.outgrown(), "the machine was out of memory, not the group"
    (folder / "memory.peak").write_text("123\n")
    assert group.peak_bytes() == 123


def test_version_1_limits_below_the_own_group(tmp_path: Path) -> None:
    cpu, memory = tmp_path / "cpu", tmp_path / "mem ory"
    (memory / "inner").mkdir(parents=True)
    cpu.mkdir()
    mounts = [
        ("/", cpu, "cgroup", "rw,cpu,cpuacct"),
        ("/docker/1", Path(str(memory).replace(" ", r"\040")), "cgroup", "rw,memory"),
    ]
    proc = mounted(tmp_path, mounts, "5:memory:/docker/1/inner\n4:cpu,cpuacct:/gone\n1:name=systemd:/\n")
    group = cgroups.ControlGroup("edgelaunch-1", cgroups.find_controllers(proc))
    assert group.folders == (cpu / "edgelaunch-1", memory / "inner" / "edgelaunch-1")
    group.create(cpu_share=0.01, memory_bytes=10 << 20)
    written = {file.name: file.read_text() for folder in group.folders for file in folder.iterdir()}
    assert written == {
        "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "1000", "cpu.shares": "10",
        "memory.limit_in_bytes": str(10 << 20),
    }  # fmt: skip
    (group.folders[1] / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    (group.folders[1] / "memory.max_usage_in_bytes").write_text(str((10 << 20) - 4096))
    assert group.outgrown()
    (group.folders[1] / "memory.max_usage_in_bytes").write_text(str(5 << 20))
    assert not group.outgrown()
    assert cgroups.groups_named("edgelaunch-", cgroups.find_controllers(proc)) == list(group.folders)


def test_a_share_is_granted_as_often_as_asked_but_for_what_the_kernel_can(tmp_path: Path, version_2: Path) -> None:
    proc = mounted(tmp_path, [("/", version_2, "cgroup2", "rw")], "0::/\n")
    group = cgroups.ControlGroup("edgelaunch-1", cgroups.find_controllers(proc))
    for share, period_s, limit in (
        (0.8, 0.0025, "16000 20000"), (0.3, 0.05, "15000 50000"), (0.3, 1.0, "30000 100000"),
        (0.004, 0.02, "1000 100000"),
    ):  # fmt: skip
        group.create(cpu_share=share, memory_bytes=1 << 30, period_s=period_s)
        assert (version_2 / "edgelaunch-1" / "cpu.max").read_text() == limit


def test_no_share_is_no_limit(tmp_path: Path, version_2: Path) -> None:
    proc = mounted(tmp_path, [("/", version_2, "cgroup2", "rw")], "0::/\n")
    cgroups.ControlGroup("edgelaunch-1", cgroups.find_controllers(proc)).create(cpu_share=None, memory_bytes=1 << 30)
    assert not (version_2 / "edgelaunch-1" / "cpu.max").exists()


def test_a_kernel_without_the_controller_is_named(tmp_path: Path, version_2: Path) -> None:
    (version_2 / "cgroup.controllers").write_text("cpuset cpu io pids\n")
    proc = mounted(tmp_path, [("/", version_2, "cgroup2", "rw")], "0::/\n")
    with pytest.raises(UserError, match=r"needs the kernel's memory control groups.*cgroup_enable=memory"):
        cgroups.find_controllers(proc)


def test_a_group_that_may_not_have_limits_is_named(tmp_path: Path, version_2: Path) -> None:
    (version_2 / "cgroup.subtree_control").unlink()
    (version_2 / "cgroup.subtree_control").mkdir()  # a write fails, as the kernel's does below processes
    proc = mounted(tmp_path, [("/", version_2, "cgroup2", "rw")], "0::/\n")
    group = cgroups.ControlGroup("edgelaunch-1", cgroups.find_controllers(proc))
    with pytest.raises(UserError, match=r"cannot turn on .* limits in .*--cgroupns=host"):
        group.create(cpu_share=0.5, memory_bytes=1 << 30)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_only_what_a_gone_process_left_is_left() -> None:
    family = emulate._family()
    own = processes.start_time(os.getpid())
    assert not emulate._is_left(f"{family}{os.getpid()}-{own}-0-1")
    assert emulate._is_left(f"{family}{os.getpid()}-1{own}-0-1"), "the id was used again"
    assert emulate._is_left(f"{family}{1 << 22}-5-0-hub")


def is_idle(process: int) -> bool:
    return os.sched_getscheduler(process) == os.SCHED_IDLE


@pytest.mark.slow
def test_what_runs_beside_the_hosts_ends_with_its_parent() -> None:
    script = Path(cgroups.__file__).with_name("busy_core.py")
    stranger = subprocess.run([sys.executable, "-I", "-S", script, "1"], timeout=60, check=False)
    assert stranger.returncode == 0  # not its parent
    code = f"import subprocess, sys, os; p = subprocess.Popen([sys.executable, '-I', '-S', {str(script)!r}, "
    code += "str(os.getpid())], stdout=subprocess.DEVNULL)\n"
    code += "print(p.pid, flush=True); sys.stdin.read(1); os._exit(9)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    spinning = int(parent.stdout.readline())
    deadline = time.monotonic() + 60
    while not is_idle(spinning) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_idle(spinning)
    parent.communicate("x", timeout=60)
    while Path(f"/proc/{spinning}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{spinning}").exists()
