"""The prices that `edgeplan explain` names are what a compile with that change gives."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from compiler_helpers import scheduled

from edgecompile.commands.compile_command import compose
from edgecompile.config.cluster_spec import cluster_of
from edgecompile.config.model_spec import model_of
from edgecompile.config.schema import Conf
from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import read_plan
from edgecompile.explore.changes import with_speed
from edgecompile.explore.explain import Explanation, explain
from edgecompile.explore.prices import BANDWIDTH_STEP, COMPUTE_STEP, MEMORY_STEP, Price
from edgecompile.frontend.capture.flat_model import FlatModel
from edgecompile.frontend.capture.trace import capture
from edgecompile.frontend.chain.units import Chain, build_chain
from edgecompile.frontend.golden.golden_items import example_inputs, golden_inputs
from edgecompile.frontend.passes import run_passes
from edgecompile.models import build_model
from edgecompile.pipeline import compile_model
from edgecompile.planning.from_plan import planned_again
from edgecompile.planning.problem import Infeasible
from edgecompile.terminal.console import steps

pytestmark = pytest.mark.slow

# Slow links, little memory and units that all take alike, so that every limit has a price.
KINDS = ("jetson_orin_nano", "intel_n100", "laptop_cpu", "raspberry_pi_5")
HOSTS = ("mini-pc", "orin-nano", "laptop", "pi5-1", "pi5-2")
MEMORY = {"mini-pc": "240kB", "orin-nano": "120kB"}  # the first keeps 100 kB of inputs
OVERRIDES = (
    "model=custom",
    "model.build._target_=hand_written.Forked",
    "model.inputs={x: {shape: [40, 24], dtype: float32}, ids: {shape: [40], dtype: int64}}",
    "devices=mixed_edge",
    "hosts.network.latency=20us",
    "runtime.num_buffers_in=2",  # the memory below is as little as two need
    *(f"devices.{kind}.launch_overhead=200us" for kind in KINDS),
    *(f"devices.{kind}.runtime_memory=30kB" for kind in KINDS),
    *(f"hosts.members.{host}.memory={MEMORY.get(host, '90kB')}" for host in HOSTS),
    *(f"hosts.members.{host}.bandwidth={'80Mbps' if host == 'mini-pc' else '60Mbps'}" for host in HOSTS),
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Conf, Plan, Explanation]:
    folder = tmp_path_factory.mktemp("prices")
    conf = compose([*OVERRIDES, "microbatch=1", f"output_dir={folder}"])
    compile_model(conf, steps)
    plan = read_plan(Path(folder) / "plan.yaml")
    return conf, plan, explain(plan)


@pytest.fixture(scope="module")
def chain(compiled: tuple[Conf, Plan, Explanation]) -> Chain:
    return chain_of(compiled[0])


def chain_of(conf: Conf) -> Chain:
    spec = model_of(conf.model)
    module = build_model(spec, conf.seed)
    examples = example_inputs(spec, golden_inputs(spec, module, conf.seed), conf.microbatch)
    flat = FlatModel(module, [item.name for item in spec.inputs], spec.outputs, None)
    return build_chain(run_passes(capture(flat, spec, examples, conf.capture), examples, conf.passes))


def with_change(conf: Conf, plan: Plan, price: Price) -> Conf:
    """The config as somebody would write it who has bought, or lost, that."""
    conf = copy.deepcopy(conf)
    members, limits = conf.hosts.members, {host.name: host.limits for host in plan.all_hosts}
    if price.kind == "compute":
        kind = members[price.target].device
        base = conf.devices[kind]
        device = next(device for device in cluster_of(conf).devices if device.name == kind)
        conf.devices["faster"] = replace(
            base,
            efficiency=1.0,
            peak={base.dtype: device.peak_flops_per_s * COMPUTE_STEP},
            memory_bandwidth=device.memory_bytes_per_s * COMPUTE_STEP,
            launch_overhead=device.launch_s / COMPUTE_STEP,
        )
        members[price.target].device = "faster"
    elif price.kind == "memory":
        members[price.target].memory = limits[price.target].memory_bytes * MEMORY_STEP
    elif price.kind == "bandwidth":
        for name in members if price.target == "every interface" else [price.target]:
            members[name].bandwidth = limits[name].bandwidth_bytes_per_s * BANDWIDTH_STEP
    elif price.kind == "more":
        some = next(iter(members.values()))
        members["another"] = replace(some, device=price.target, bandwidth=None, memory=None, address="10.0.0.99")
    elif price.kind == "loss":
        del members[price.target]
    else:
        conf.wire.format = price.target
    return conf


def check(chain: Chain, conf: Conf, plan: Plan, price: Price) -> None:
    try:
        schedule = scheduled(chain, with_change(conf, plan, price))
    except Infeasible:
        assert price.throughput_items_per_s is None, price.what
        return
    assert price.throughput_items_per_s == pytest.approx(conf.microbatch / schedule.period_s, rel=1e-8), price.what
    assert price.latency_s == pytest.approx(schedule.latency_s, rel=1e-8), price.what
    assert price.num_hosts == len(schedule.stages), price.what


def test_every_price_is_what_a_compile_with_that_change_gives(
    compiled: tuple[Conf, Plan, Explanation], chain: Chain
) -> None:
    conf, plan, found = compiled
    assert found.best.period_s == plan.predicted.period_s
    for price in (*found.prices, *found.wires):
        check(chain, conf, plan, price)
    kinds = {price.kind for price in found.prices if price.gain}
    assert kinds == {"compute", "memory", "bandwidth", "more", "loss"}, "every kind of change should matter here"


def test_a_whole_compile_gives_the_price_too(compiled: tuple[Conf, Plan, Explanation], tmp_path: Path) -> None:
    conf, plan, found = compiled
    price = max((price for price in found.prices if price.kind == "compute"), key=lambda item: item.gain or 0.0)
    changed = replace(with_change(conf, plan, price), output_dir=str(tmp_path))
    again = compile_model(changed, steps)
    assert again.predicted.throughput_items_per_s == pytest.approx(price.throughput_items_per_s, rel=1e-8)
    faster = planned_again(with_speed(plan, price.target, COMPUTE_STEP))[1]
    assert [stage.units for stage in again.stages] == [(stage.first, stage.last) for stage in faster.stages]


@pytest.mark.parametrize("network", ["pairwise", "shared"])
def test_prices_of_other_networks(
    compiled: tuple[Conf, Plan, Explanation], chain: Chain, tmp_path: Path, network: str
) -> None:
    conf = copy.deepcopy(compiled[0])
    conf.hosts.network.model = network
    if network == "shared":
        conf.hosts.network.bandwidth = "200Mbps"
    else:
        conf.hosts.network.pairs = {"mini-pc->orin-nano": "20Mbps", "orin-nano->laptop": "30Mbps"}
    conf.output_dir = str(tmp_path)
    compile_model(conf, steps)
    plan = read_plan(tmp_path / "plan.yaml")
    found = explain(plan)
    links = 0
    for price in found.prices:
        if price.kind == "bandwidth":
            changed = copy.deepcopy(conf)
            if network == "shared" and price.target == "the shared medium":
                changed.hosts.network.bandwidth = "400Mbps"
            elif network == "shared":
                changed = with_change(conf, plan, price)
            else:
                source, destination = price.target.split(" -> ")
                limits = {host.name: host.limits for host in plan.all_hosts}
                figures = plan.network.figures((source, limits[source]), (destination, limits[destination]))
                assert figures is not None
                changed.hosts.network.pairs[f"{source}->{destination}"] = figures[0] * 2
            schedule = scheduled(chain, changed)
            assert price.throughput_items_per_s == pytest.approx(1 / schedule.period_s, rel=1e-8), price.what
            links += 1
        elif price.kind in ("loss", "more") and network == "shared":
            check(chain, conf, plan, price)
    assert links == (20 if network == "pairwise" else 7)
