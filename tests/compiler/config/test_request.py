"""A config becomes a request before torch is imported: every value that is not allowed is found by then."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest

from edgecompile.commands.compile_command import compose
from edgecompile.config.measure_request import measure_of
from edgecompile.config.methods import PASS_NAMES, ScheduleMethod
from edgecompile.config.request import CompileRequest, request_of
from edgecompile.contract.closed_sets import Artifact, Objective, WireName
from edgecompile.contract.errors import UserError, invalid_value
from edgecompile.frontend.passes import PASSES

BERT = "model=bert_base"
EVEN = "schedule=even"
GROUPS = ("model", "data", "schedule", "profile")

# options and values: the key that the message names, where it is not that of the last value
BAD = {
    "microbatch=0": "",
    "microbatch=2000000": "",
    "contingency=2": "",
    "seed=99999999999999999999": "",
    "weights=/none/such.npz": "",
    "weights_unused=keep": "",
    "capture=fx": "",
    "passes.drop_all=true": "",
    "model.inputs.pixel_values.dtype=complex64": "",
    "model.inputs.pixel_values.shape=[0,1]": "",
    "model.inputs.pixel_values.fill=noise": "",
    "runtime.timeout=soon": "",
    "runtime.timeout=0": "",
    "runtime.timeout=-1s": "",
    "runtime.detect=0": "",
    "runtime.detect=10parsecs": "",
    "runtime.rejoin=7000000": "",
    "runtime.prepack=sometimes": "",
    "runtime.num_buffers_in=0": "",
    "runtime.num_buffers_out=2000": "",
    "runtime.import=[a-b]": "",
    "runtime.window=0": "",
    "runtime.max_wait=soon": "",
    "runtime.batch_tokens=0": "",
    "data.kind=sound": "",
    "data.top_k=0": "",
    "data.top_k=1000000": "",
    "data.result=words": "",
    "data.pixels=int8": "",
    "data.interpolation=cubic": "",
    "data.resize=10": "",
    "data.mean=[0.5]": "",
    "data.std=[0,1,1]": "",
    "data.std=[.nan,1,1]": "",
    "data.labels=[a,'']": "",
    "data.labels=[a,true]": "data.labels.1",
    "data.labels=/none/such.txt": "",
    "data.scores=none": "",
    "data=text": "data.ids",
    f"{BERT} data.ids=tokens": "",
    f"{BERT} data.max_length=5": "",
    f"{BERT} data.tokenizer=/none/such.json": "",
    f"{BERT} data.pixels=uint8": "",
    "wire.format=int5": "",
    "wire.scale=row": "",
    "wire.max_error=0": "",
    "wire.max_error=.nan": "",
    "wire.per_cut=[int8]": "",
    f"{EVEN} wire.per_cut=[int5]": "wire.per_cut.0",
    "artifact.format=onnx": "",
    "artifact.per_stage=[pt2,onnx]": "artifact.per_stage.1",
    "schedule.objective=speed": "",
    "schedule.objective=period_under_latency": "schedule.constraints.max_latency",
    "schedule.state_budget=0": "",
    "schedule=manual": "schedule.cuts",
    "schedule=manual schedule.cuts=[3] schedule.units=[0,1]": "",
    "schedule.cuts=[3]": "schedule.cuts",
    f"{EVEN} schedule.units=[0,1]": "schedule.units",
    "schedule.hosts=[local-1]": "schedule.hosts",
    f"{EVEN} schedule.hosts=[nobody]": "",
    f"{EVEN} schedule.hosts=[local-1,local-1]": "",
    "schedule.constraints.pin={0: nobody}": "schedule.constraints.pin.0",
    "schedule.constraints.pin={0: []}": "schedule.constraints.pin.0",
    "schedule.constraints.pin=[0]": "",
    "schedule.constraints.together=[[1]]": "schedule.constraints.together.0",
    "schedule.constraints.exclude=[nobody]": "",
    "schedule.constraints.host_order=[]": "",
    "schedule.constraints.host_order=[local,local]": "",
    "schedule.constraints.max_hosts=0": "",
    "schedule.constraints.min_throughput=0": "",
    "schedule.constraints.min_throughput=.nan": "",
    "schedule.constraints.min_throughput=1e-9": "",
    "schedule.constraints.max_latency=0": "",
    "schedule.constraints.max_latency=7000000": "",
    "profile.outside=guess": "",
    "profile=measured profile.files={nano: x.yaml}": "profile.files.nano",
    "devices.local.execution=tpu": "",
    "devices.local.dtype=float16": "",
    "devices.local.peak.float32=fast": "",
    "devices.local.efficiency=1.5": "",
    "devices.local.efficiency=.nan": "",
    "devices.local.memory_bandwidth=0": "",
    "devices.local.memory=0": "",
    "devices.local.runtime_memory=-1": "",
    "devices.local.launch_overhead=7000000": "",
    "devices.local.network=0": "",
    "devices.local.threads=-1": "",
    "devices.local.cpu_share=0": "",
    "devices.local.cpu_share=.inf": "",
    "devices.local.python=three": "",
    "devices.local.speed=1": "",
    "hosts.count=0": "",
    "hosts.members.local.count=2 hosts.count=3": "",
    "hosts.data_host=nobody": "",
    "hosts.members.local.device=nano": "",
    "hosts.members.local.port=0": "",
    "hosts.members.local.count=-1": "",
    "hosts.members.local.bandwidth=quick": "",
    "hosts.members.local.memory=0": "",
    "hosts.members.local.threads=-1": "",
    "hosts.members.local.cpu_share=-1": "",
    "hosts.network.model=ring": "",
    "hosts.network.model=shared": "hosts.network.bandwidth",
    "hosts.network.latency=-1ms": "",
    "hosts.network.latency=7000000": "",
    "hosts.network.pairs={a: 1Mbps}": "hosts.network.pairs",
    "hosts.network.model=pairwise hosts.network.pairs={a: 1Mbps}": "hosts.network.pairs.a",
}
BAD_TO_MEASURE = {
    "profile.device=nano": "",
    "profile.microbatches=[0,1]": "",
    "profile.microbatches=[]": "",
    "profile.extents=[8]": "",
    "profile.rounds=0": "",
    "profile.time_limit=long": "",
    "profile.max_memory=0": "",
    "profile.busy_cores=-1": "",
    "devices.local.profile_of=other": "profile.device",
    "runtime.prepack=sometimes": "",
    "data.pixels=int8": "",
}

PROGRAM = """
import contextlib, functools, io, json, sys
import hydra, yaml
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from edgecompile.commands import compile_command as cli
from edgecompile.config.composed import to_conf
from edgecompile.config.measure_request import measure_of
from edgecompile.config.request import request_of
from edgecompile.contract.errors import UserError

@functools.cache
def composed(*options):
    with hydra.initialize_config_module("edgecompile.conf", version_base="1.3"):
        return hydra.compose("config", overrides=list(options))

def refusal(make, options, values):
    config = composed(*options).copy()
    try:
        with open_dict(config):
            for key, value in values:
                OmegaConf.update(config, key, yaml.safe_load(value), merge=False)
        OmegaConf.resolve(config)
        make(to_conf(config))
    except (UserError, OmegaConfBaseException) as error:
        return str(error)

cases = json.loads(sys.stdin.read())
found = [refusal({"compile": request_of, "measure": measure_of}[make], *case) for make, case in cases]
sys.argv = ["edgecompile", "data.top_k=0"]
with contextlib.redirect_stderr(io.StringIO()) as errors:
    status = cli.main()
print(json.dumps([found, status, errors.getvalue(), "torch" in sys.modules]))
"""


def case_of(text: str) -> tuple[list[str], list[list[str]]]:
    """The options that are composed, and the values that are then put in."""
    words = [word.split("=", 1) for word in re.findall(r"\S+?=(?:\{[^=]*\}|\[[^=]*\]|\S*)", text)]
    options = [f"{key}={value}" for key, value in words if "." not in key and key in GROUPS]
    return options, [word for word in words if "=".join(word) not in options]


@pytest.mark.slow
def test_values_that_are_not_allowed_are_found_before_torch_is_imported(tmp_path: Path) -> None:
    asked = [("compile", text, key) for text, key in BAD.items()]
    asked += [("measure", text, key) for text, key in BAD_TO_MEASURE.items()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([(make, case_of(text)) for make, text, _ in asked]),
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found, status, errors, has_torch = json.loads(done.stdout)
    keys = [key or text.rpartition(" ")[2].partition("=")[0] for _, text, key in asked]
    wrong = {
        f"{make} {text}": message
        for (make, text, _), key, message in zip(asked, keys, found, strict=True)
        if message is None or key not in message or (len(message.splitlines()) != 1 and "full_key" not in message)
    }
    assert wrong == {}
    assert (status, errors) == (2, "edgecompile: invalid value 0 for data.top_k: expected 1 to 100000\n")
    assert not has_torch
    assert list(tmp_path.iterdir()) == []


def test_a_good_config_is_parsed_whole() -> None:
    request = request_of(
        compose([
            "devices=local", "hosts.count=3", "microbatch=4", "schedule=even", "schedule.hosts=[local-2,local-1]",
            "wire.per_cut=[int8]", "artifact.per_stage=[pt2,torchscript]", "runtime.timeout=2min",
            "runtime.detect=500ms",
            "runtime.import=json", "schedule.constraints.min_throughput=8", "schedule.constraints.max_latency=20ms",
            "schedule.constraints.pin={3-5: [local-3, local-1]}", "data=imagenet", "data.pixels=uint8", "contingency=1",
            "hosts.network.latency=1ms", "output_dir=here",
        ])
    )  # fmt: skip
    assert (request.runtime.timeout_s, request.runtime.detect_s, request.runtime.imports) == (120.0, 0.5, ("json",))
    assert request.schedule.method is ScheduleMethod.even
    assert request.schedule.objective is Objective.PERIOD
    assert request.schedule.hosts == ("local-2", "local-1")
    limits = request.schedule.constraints
    assert (limits.min_throughput, limits.latency_limit_s) == (8, 0.02)
    assert [(pin.units, pin.hosts) for pin in limits.pins] == [("3-5", ("local-1", "local-3"))]
    assert request.wire.per_cut == (WireName.INT8,)
    assert request.wire.may_lose
    assert request.artifact.per_stage == (Artifact.PT2, Artifact.TORCHSCRIPT)
    assert request.data.image is not None
    assert (request.data.image.resize, request.data.image.size) == (256, (224, 224))
    assert request.model.pixels == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert request.model.spec.inputs[0].dtype == "uint8"
    assert request.cluster.latency_s == 0.001
    assert (request.contingency, request.folder) == (True, Path("here"))
    assert request_of(request) is request


def test_a_request_cannot_be_changed_and_its_config_may() -> None:
    conf = compose(["hosts.count=2", "schedule.constraints.exclude=[local-2]"])
    request = request_of(conf)
    before = copy.deepcopy(request)
    conf.schedule.constraints.exclude.append("local-1")
    conf.profile.files["local"] = "x"
    conf.passes["drop_guards"] = False
    conf.data.mean[0] = 9.0
    assert request == before
    parts = [request]
    for part in parts:
        assert type(part).__dataclass_params__.frozen, type(part)  # type: ignore[attr-defined]
        parts += [value for item in fields(part) if is_dataclass(value := getattr(part, item.name))]
    assert len(parts) > 10
    with pytest.raises(FrozenInstanceError):
        request.microbatch = 2  # type: ignore[misc]


def test_what_is_measured_is_parsed_whole() -> None:
    request = measure_of(
        compose(["profile.microbatches=[8,1,8]", "profile.time_limit=2min", "profile.max_memory=1MiB"])
    )
    assert (request.microbatches, request.time_limit_s, request.max_bytes) == ((1, 8), 120.0, 1 << 20)
    assert request.device.name == "local"


def test_the_switches_are_the_passes() -> None:
    assert tuple(PASSES) == PASS_NAMES


def test_an_error_has_parts_and_is_one_line() -> None:
    plain = UserError("nothing is there")
    assert (str(plain), plain.problem, plain.key, plain.fix) == ("nothing is there", "nothing is there", None, None)
    whole = UserError("no host 'x'", key="schedule.hosts", fix="the hosts are a, b")
    assert str(whole) == "schedule.hosts: no host 'x': the hosts are a, b"
    value = invalid_value(0, "microbatch", "1 or more")
    assert str(value) == "invalid value 0 for microbatch: expected 1 or more"
    for error in (plain, whole, value):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))
    with pytest.raises(UserError) as caught:
        request_of(compose(["hosts.members.local.port=0"]))
    assert (caught.value.key, caught.value.fix) == ("hosts.members.local.port", "expected 1 to 65534")


def test_compile_model_takes_both(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgecompile import pipeline

    class Reached(Exception):
        pass

    def stop(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(pipeline, "check_place", stop)
    conf = compose([])
    for asked in (conf, request_of(conf)):
        with pytest.raises(Reached):
            pipeline.compile_model(asked, lambda _: pytest.raises(Reached))
    assert isinstance(request_of(conf), CompileRequest)
