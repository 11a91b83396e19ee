"""edgeprofile writes what profile=measured reads; every way in which a profile may not fit is one line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from compiler_helpers import TINY_VIT, Compile, command

from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.profile.profile_file import read_profile

pytestmark = pytest.mark.slow

MEASURE = (*TINY_VIT, "profile.microbatches=[1,4]", "profile.rounds=3", "hosts.count=1", "devices.local.threads=1")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    done = command("edgecompile.commands.profile_command", *MEASURE, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "sums off by" in done.stdout
    assert f"profile written to profiles{os.sep}local-tiny_vit.yaml" in done.stdout
    assert not list((folder / "profiles").glob("*.partial"))
    return folder / "profiles" / "local-tiny_vit.yaml"


@pytest.fixture
def compile_measured(compile_here: Compile, profile: Path) -> Callable[..., Plan]:
    def run(*overrides: str, folder: Path = profile.parent) -> Plan:
        return compile_here(
            *TINY_VIT, "profile=measured", f"profile.folder={folder}", "devices.local.threads=1", *overrides
        )

    return run


def edited(profile: Path, folder: Path, edit: Callable[[Any], object]) -> Path:
    """A copy of the profile with some of its values changed; returns its folder."""
    document = yaml.safe_load(profile.read_text())
    edit(document)
    folder.mkdir(exist_ok=True)
    (folder / profile.name).write_text(yaml.safe_dump(document))
    return folder


def test_a_profile_says_what_was_measured_where(profile: Path) -> None:
    found = read_profile(profile)
    assert [item.microbatch for item in found.microbatches] == [1, 4]
    assert (found.device, found.execution, found.dtype, found.threads) == ("local", "cpu", "float32", 1)
    assert found.machine.cores >= 1
    assert found.machine.processor
    assert found.rates.matrix_flops_per_s > 1e8
    assert found.rates.memory_bytes_per_s > 1e7
    assert found.runtime_bytes > 20e6
    assert found.messages.send.each_cpu_s > 0
    assert {(item.format, item.scale) for item in found.wires} >= {
        ("int8", "item"),
        ("fp16", "item"),
        ("int4", "channel"),
    }
    assert {item.rounds for item in found.microbatches} == {3}
    for item in found.microbatches:
        assert len(item.wall_s) == len(item.cpu_s) == len(found.units)
        assert min(item.wall_s) > 0
        assert len(item.checks) == 3
        first = found.units.index("vit.layers.0.layernorm_before")
        assert item.wall_s[first : first + 12] == item.wall_s[first + 12 : first + 24]  # equal blocks


def test_a_plan_takes_its_times_from_the_profile_and_says_so(compile_measured: Callable[..., Plan]) -> None:
    plan = compile_measured("hosts.count=1", "microbatch=1")
    assert len(plan.notes) >= 1
    assert "times of local: measured" in plan.notes[0]
    assert "local-tiny_vit.yaml" in plan.notes[0]
    whole = sum(unit.time_s["local"] for unit in plan.units)
    assert plan.stages[0].predicted.compute_s == pytest.approx(whole, rel=0.5)
    assert plan.stages[0].predicted.compute_s >= whole


def test_between_two_microbatches_units_lie_on_a_line(compile_measured: Callable[..., Plan], profile: Path) -> None:
    low, high = read_profile(profile).microbatches
    plan = compile_measured("hosts.count=1", "microbatch=2")
    expected = [
        max(2 / 3 * small + 1 / 3 * large, 2 / 3 * small_cpu + 1 / 3 * large_cpu)
        for small, large, small_cpu, large_cpu in zip(low.wall_s, high.wall_s, low.cpu_s, high.cpu_s, strict=True)
    ]
    found = [unit.time_s["local"] for unit in plan.units]
    assert found == pytest.approx(expected, rel=0.7)  # cores of the machine may be two
    assert "microbatch 2 lies between" in plan.notes[0]
    wall = [2 / 3 * small + 1 / 3 * large for small, large in zip(low.wall_s, high.wall_s, strict=True)]
    assert all(value >= least * (1 - 1e-6) for value, least in zip(found, wall, strict=True))


def test_outside_of_what_was_measured(compile_measured: Callable[..., Plan], profile: Path) -> None:
    with pytest.raises(UserError, match=r"microbatch 8 is outside the measured ones \(1, 4\).*profile.outside"):
        compile_measured("hosts.count=1", "microbatch=8")
    edge = compile_measured("hosts.count=1", "microbatch=4")
    plan = compile_measured("hosts.count=1", "microbatch=8", "profile.outside=analytic")
    assert "microbatch 8 was not measured: scaled by the data sheet from the nearest" in plan.notes[0]
    for unit, near in zip(plan.units, edge.units, strict=True):
        assert near.time_s["local"] * 0.999 <= unit.time_s["local"] <= near.time_s["local"] * 2.001
    with pytest.raises(UserError, match=r"invalid value 'guess' for profile.outside"):
        compile_measured("profile.outside=guess")


SHARES = {
    "devices": """
defaults: [{/board@local: local}, {/board@half: local}, _self_]
local: {threads: 1, cpu_share: 1}
half: {threads: 1, cpu_share: 0.5, profile_of: local}
""",
    "hosts": "members: {a: {device: local}, b: {device: half, port: 29600}}",
}


def test_kinds_that_are_shares_of_the_machine_that_was_measured(
    compile_measured: Callable[..., Plan], tmp_path: Path
) -> None:
    for group, text in SHARES.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "shares.yaml").write_text(text)
    words = (f"hydra.searchpath=[file://{tmp_path}]", "devices=shares")
    plan = compile_measured(*words, "microbatch=1", "schedule=manual", "schedule.cuts=[vit.layers.2]")
    assert [host.limits.cpu_share for host in plan.hosts] == [1.0, 0.5]
    full, halved = (sum(unit.time_s[kind] for unit in plan.units) for kind in ("local", "half"))
    assert halved == pytest.approx(2 * full, rel=0.1)
    assert "0.5 of" in plan.notes[1]
    with pytest.raises(UserError, match=r"b has a cpu_share of 0.2, its device half one of 0.5.*profile_of: local"):
        compile_measured(*words, "hosts.members.b.cpu_share=0.2")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda document: document.update(version=3),
            "version is 3, this edgecompile reads profiles of the versions 1 and 2",
        ),
        (lambda document: document.update(fingerprint="0" * 64), "the profile of another tiny_vit than this model"),
        (lambda document: document.update(dtype="float16"), "measured with dtype float16, but devices.local.dtype is"),
        (lambda document: document.pop("prepack"), "measured with runtime.prepack=never, .* run with auto: set"),
        (
            lambda document: document.update(threads=2),
            "measured with 2 threads, but a rank on local will have 1 thread",
        ),
        (lambda document: document["units"].append("x"), r"microbatches.0.wall_s has \d+ entries: expected"),
        (lambda document: document["microbatches"][0]["cpu_s"].__setitem__(0, -1.0), "invalid value -1.0 for "),
        (lambda document: document["microbatches"].reverse(), r"invalid value \[4, 1\] for microbatches"),
        (lambda document: document.pop("rates"), "the key rates is missing"),
        (lambda document: document.update(extra=1), "unknown key extra"),
    ],
)
def test_profiles_that_do_not_fit(
    compile_measured: Callable[..., Plan], profile: Path, tmp_path: Path, edit: Callable[[Any], object], message: str
) -> None:
    folder = edited(profile, tmp_path / "profiles", edit)
    with pytest.raises(UserError, match=message):
        compile_measured("hosts.count=1", folder=folder)


def test_a_missing_profile_names_the_command_that_makes_it(
    compile_measured: Callable[..., Plan], profile: Path, tmp_path: Path
) -> None:
    wanted = r"no profile of tiny_vit on local: run `edgeprofile model=... \(as here\) profile.device=local`"
    with pytest.raises(UserError, match=wanted):
        compile_measured(folder=tmp_path / "none")
    plan = compile_measured(f"+profile.files={{local: {profile}}}", "hosts.count=1", folder=tmp_path / "none")
    assert plan.notes
    with pytest.raises(UserError, match=r"profile.files.nano: no device kind 'nano': the kinds here are local"):
        compile_measured("+profile.files={nano: x.yaml}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("devices=mixed_edge",), "profile.device is missing: say which device this machine is: intel_n100, "),
        (("profile.device=nano",), "profile.device: no host has the device 'nano': the devices here are local"),
        (("profile.microbatches=[0]",), "invalid value [0] for profile.microbatches: expected "),
        (("profile.busy_cores=1000",), "invalid value 1000 for profile.busy_cores: expected 0 to "),
        (("profile.max_memory=1kB",), "profile.max_memory: unit 0 "),
        (("devices.local.profile_of=other",), "profile.device: local takes its times from other: measure that one"),
        (("devices.local.cpu_share=0",), "invalid value 0.0 for devices.local.cpu_share: expected a number greater"),
        (("profile.rounds=x",), "profile.rounds"),
    ],
)
def test_what_edgeprofile_refuses(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    done = command("edgecompile.commands.profile_command", *TINY_VIT, *overrides, folder=tmp_path)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edgeprofile: ")]
    assert message in line
    assert not list(tmp_path.rglob("*.yaml"))


def test_an_interrupted_measurement_goes_on(tmp_path: Path) -> None:
    arguments = (*MEASURE, "profile.rounds=4000", "profile.time_limit=10min")
    start = [sys.executable, "-m", "edgecompile.commands.profile_command", *arguments]
    process = subprocess.Popen(start, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("*.partial")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "edgeprofile: interrupted"
    assert re.search(r"stopped at microbatch \d+: \S+\.partial keeps the rounds; run the same command again", errors)
    assert not list(tmp_path.rglob("*.yaml"))
    done = command("edgecompile.commands.profile_command", *MEASURE, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "resuming from profiles/local-tiny_vit.yaml.partial" in done.stderr
    assert not list(tmp_path.rglob("*.partial"))


def test_help_is_edgeprofiles_own(tmp_path: Path) -> None:
    done = command("edgecompile.commands.profile_command", "--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("edgeprofile measures the units of a model on this device")
    assert command("edgecompile.commands.profile_command", "--version", folder=tmp_path).stdout.startswith(
        "edgeprofile "
    )
