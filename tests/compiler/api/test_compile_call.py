"""edgecompile.compile(): a module in hand becomes a plan, and the program that calls it stays as it was."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import yaml
from compiler_helpers import compile_into, hand_written
from hand_written import Forked
from hydra import version
from hydra.core.global_hydra import GlobalHydra
from torch import nn

import edgecompile
from edgecompile.contract.plan_file import read_plan

pytestmark = pytest.mark.slow

HOSTS = {"members": {"pi": {"device": "pi"}, "nano": {"device": "nano", "bandwidth": "100Mbps"}}}
DEVICES = {"pi": "raspberry_pi_5", "nano": "jetson_nano"}


class Net(nn.Module):
    """With what differs in training: dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.norm = nn.BatchNorm1d(32)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.drop(self.norm(torch.relu(self.first(x)))))
        return result


def net() -> Net:
    torch.manual_seed(3)
    return Net()


X = torch.zeros(2, 16)


def test_a_module_in_hand_is_compiled_and_is_not_changed(tmp_path: Path) -> None:
    module = net().train()
    module.first.requires_grad_(False)
    module(torch.randn(4, 16)).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    places = {name: value.data_ptr() for name, value in module.state_dict().items()}
    gradient = module.last.weight.grad
    plan = edgecompile.compile(module, {"x": X}, microbatch=4, output=tmp_path / "out")
    assert plan.path == tmp_path / "out" / "plan.yaml"
    assert os.fspath(plan) == str(plan.path)
    assert read_plan(plan.path).units == plan.units
    assert plan.model.name == "Net"
    assert plan.model.weights == "of the Net that was given"
    assert [(spec.name, spec.shape) for spec in plan.inputs] == [("x", (4, 16))]
    assert module.training
    assert module.drop.training
    assert [value.requires_grad for value in module.parameters()] == [False, False, True, True, True, True]
    assert module.last.weight.grad is gradient
    after = module.state_dict()
    assert {name: value.data_ptr() for name, value in after.items()} == places
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_plan_is_the_one_that_the_command_writes(tmp_path: Path) -> None:
    inputs = {"x": torch.zeros(1, 6, 24), "ids": {"shape": [6], "dtype": "int64", "high": 9}}
    torch.manual_seed(0)
    plan = edgecompile.compile(Forked(), inputs, microbatch=3, output=tmp_path / "call")
    other = compile_into(tmp_path / "command", *hand_written("Forked"), "microbatch=3")
    assert plan.units == other.units
    assert [stage.sha256 for stage in plan.stages] == [stage.sha256 for stage in other.stages]
    assert [stage.weights for stage in plan.stages] == [stage.weights for stage in other.stages]


def test_the_program_stays_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, Any]:
        found = np.random.get_state(legacy=False)
        mha: Any = torch.backends.mha
        return {
            "python": random.getstate(),
            "numpy": str(found),
            "torch": torch.get_rng_state().tolist(),
            "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
            "dtype": torch.get_default_dtype(),
            "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            "attention": mha.get_fastpath_enabled(),
            "stance": torch._dynamo.eval_frame._stance,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "path": list(sys.path),
            "filters": list(warnings.filters),
            "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            "threads alive": {thread.name for thread in threading.enumerate()},
            "hydra": (GlobalHydra.instance().hydra, version.VersionBase.instance().version_base),
        }

    module = net()
    edgecompile.compile(module, X, output=tmp_path / "first")  # libraries, once they are imported, stay
    capfd.readouterr()
    torch.set_default_dtype(torch.float64)
    try:
        before = state()
        edgecompile.compile(module, X, output=tmp_path / "out")
        after = state()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [name for name in before if before[name] != after[name]] == []
    assert capfd.readouterr() == ("", "")


def test_within_a_program_that_has_hydra_initialised(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mine.yaml").write_text("width: 3\n", encoding="utf-8")
    with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base=None):
        plan = edgecompile.compile(net(), X, devices="minnowboard_cluster", output=tmp_path / "out")
        assert hydra.compose("mine") == {"width": 3}
    assert plan.devices[0].name == "minnowboard"
    assert not GlobalHydra.instance().is_initialized()


def test_where_gradients_are_off(tmp_path: Path) -> None:
    with torch.inference_mode():
        module = net()
        inside = edgecompile.compile(module, torch.zeros(1, 16), microbatch=2, output=tmp_path / "a")
        assert torch.is_inference_mode_enabled()
    outside = edgecompile.compile(net(), X, microbatch=2, output=tmp_path / "b")
    assert [stage.sha256 for stage in inside.stages] == [stage.sha256 for stage in outside.stages]


def test_from_several_threads(tmp_path: Path) -> None:
    plans: dict[int, edgecompile.CompiledPlan] = {}

    def work(number: int) -> None:
        plans[number] = edgecompile.compile(net(), X, microbatch=number, output=tmp_path / str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: plan.model.microbatch for number, plan in plans.items()} == {1: 1, 2: 2}


def test_where_an_event_loop_runs(tmp_path: Path) -> None:
    """As in a notebook, or in a service that hands the work to a thread."""

    async def serve() -> list[edgecompile.CompiledPlan]:
        here = edgecompile.compile(net(), X, microbatch=1, output=tmp_path / "here")
        there = await asyncio.to_thread(edgecompile.compile, net(), X, microbatch=1, output=tmp_path / "there")
        return [here, there]

    here, there = asyncio.run(serve())
    assert here == there


def test_devices_and_hosts_as_mappings_and_keys_as_values(tmp_path: Path) -> None:
    plan = edgecompile.compile(
        net(), [np.zeros((1, 16), np.float32)], devices=DEVICES, hosts=HOSTS, microbatch=8, output=tmp_path,
        wire="fp16", schedule="even", overrides=["seed=5"], **{"schedule.hosts": ("nano", "pi"), "model.name": "mine"},
    )  # fmt: skip
    assert plan.model.name == "mine"
    assert [plan.hosts[stage.rank].name for stage in plan.stages] == ["nano", "pi"]
    assert {device.name for device in plan.devices} == {"pi", "nano"}
    assert plan.scheduling.wire == "fp16"
    assert plan.provenance is not None
    assert "seed=5" in plan.provenance.overrides
    assert plan.all_hosts[1].limits.bandwidth_bytes_per_s == 100e6 / 8


def test_a_mapping_is_what_the_option_holds(tmp_path: Path) -> None:
    folder = Path(edgecompile.__file__).parent / "conf"
    given = {
        group: yaml.safe_load((folder / group / "mixed_edge.yaml").read_text(encoding="utf-8"))
        for group in ("devices", "hosts")
    }
    by_content = edgecompile.compile(net(), X, output=tmp_path / "a", **given)
    by_name = edgecompile.compile(net(), X, output=tmp_path / "b", devices="mixed_edge")
    assert (by_content.devices, by_content.all_hosts) == (by_name.devices, by_name.all_hosts)


def test_an_option_by_name_with_progress(tmp_path: Path) -> None:
    told: list[str] = []
    plan = edgecompile.compile(
        "custom", {"x": X}, output=tmp_path, progress=told.append,
        **{"model.build._target_": "torch.nn.Linear", "+model.build.in_features": 16, "+model.build.out_features": 2},
    )  # fmt: skip
    assert plan.model.weights == "random, seed 0"
    assert told[0] == "build custom"
    assert told[-1] == "write the plan"


def test_progress_may_compile_another_model(tmp_path: Path) -> None:
    inner: list[edgecompile.CompiledPlan] = []

    def progress(step: str) -> None:
        if step == "capture":
            inner.append(edgecompile.compile(net(), X, microbatch=1, output=tmp_path / "inner"))

    outer = edgecompile.compile(net(), X, microbatch=1, output=tmp_path / "outer", progress=progress)
    assert inner == [outer]


def test_progress_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edgecompile.compile(net(), X, output=tmp_path, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[0] == "  build Net ..."


def unusual(name: str) -> nn.Module:
    torch.manual_seed(0)
    linear = nn.Linear(16, 4)
    if name == "weight that is computed":  # and that deepcopy does not take
        linear = torch.nn.utils.weight_norm(linear)  # type: ignore[no-untyped-call]
        linear(X)
    made: dict[str, nn.Module] = {
        "torch.compile": torch.compile(linear),  # type: ignore[dict-item]
        "in parallel": nn.DataParallel(linear),
        "lazy": nn.Sequential(nn.LazyLinear(4)),
        "not contiguous": nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    }
    return made.get(name, linear)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", ["torch.compile", "in parallel", "lazy", "not contiguous", "weight that is computed"])
def test_modules_that_are_not_copied_as_they_are(name: str, tmp_path: Path) -> None:
    module = unusual(name)
    example = torch.zeros(1, 3, 8, 8) if name == "not contiguous" else X
    plan = edgecompile.compile(module, example, microbatch=2, output=tmp_path)
    assert plan.has_shards
    assert isinstance(module, type(unusual(name)))
    if name == "lazy":
        assert isinstance(module[0], nn.LazyLinear)  # type: ignore[index]


class Locked(nn.Linear):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__(16, 2)
        self.lock = threading.Lock()


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 2)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.linear(ids) - self.linear(mask)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": None}, "inputs is missing: give an example of each argument"),
        ({"inputs": {}}, "inputs is empty: expected a tensor"),
        ({"inputs": 3}, "inputs: is of type int: by name"),
        ({"inputs": {"x": 3}}, r"inputs\.x: is of type int: expected a tensor"),
        ({"inputs": torch.tensor(1.0)}, r"inputs\.x: a single number: the first dimension counts"),
        ({"inputs": [X, X]}, "2 examples, but forward.. names 1 arguments"),
        ({"module": Two(), "inputs": {"ids": X, "mask": torch.zeros(3, 1)}}, "the batch, differs: ids 2, mask 3"),
        ({"module": Two(), "inputs": {"maks": X, "ids": X}}, "inputs: .*cannot take maks, ids .*did you mean mask"),
        ({"module": Two(), "inputs": {"ids": X, "maks": X}}, "inputs: .*cannot take ids, maks .*did you mean mask"),
        ({"module": Two(), "inputs": {"a": X, "b": X}}, "inputs: .*cannot take a, b .*its arguments are ids, mask"),
        ({"inputs": torch.zeros(1, 17)}, "the model fails on inputs"),
        ({"module": 7}, "module is of type int: expected an nn.Module"),
        ({"module": "vit_bse", "inputs": None}, "no option model/vit_bse: .*did you mean vit_base"),
        ({"module": Locked()}, "module: Locked cannot be copied: TypeError: cannot pickle"),
        ({"devices": "nix"}, "no option devices/nix"),
        ({"devices": {"pi": "nix"}, "hosts": {}}, "no option board/nix"),
        ({"devices": {"pi": "raspberry_pi_5"}}, "hosts is missing: devices is a mapping"),
        ({"devices": 4}, "devices is of type int: expected an option's name or a mapping"),
        ({"hosts": {"members": {"a": {"device": {3}}}}}, r"hosts\.members\.a\.device is of type set"),
        ({"hosts": {"a": {"device": "local"}}}, "In 'hosts/given': .* Key 'a' not in 'HostsConf'$"),
        ({"microbatch": 0}, "invalid value 0 for microbatch: expected 1"),
        ({"overrides": "wire=fp16"}, "invalid value 'wire=fp16' for overrides: expected a list"),
        ({"overrides": ["output_dir=x"]}, "output_dir is given by output=FOLDER here"),
        ({"wire.nix": 3}, r"wire\.nix: no such key: the keys here are"),
        ({"config_dir": "/no/such"}, "config_dir: /no/such: no such folder"),
        ({"output": "/proc/nix/out"}, "/proc/nix: .*choose another output_dir"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"module": net(), "inputs": X, "output": tmp_path / "out", **arguments}
    with pytest.raises(edgecompile.UserError, match=message) as raised:
        edgecompile.compile(given.pop("module"), given.pop("inputs"), **given)
    assert "\n" not in str(raised.value)


def test_without_the_packages_that_compiling_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    with pytest.raises(edgecompile.UserError, match="hydra is not installed, and compiling needs it"):
        edgecompile.compile(net(), X, output=tmp_path)
