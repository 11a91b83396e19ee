"""profile=auto: this machine is measured once, others are by data sheet, and the plan says which is which."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from compiler_helpers import TINY_VIT, captured_chain, hand_written
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.api.composing import composed_request
from edgecompile.config.cluster_spec import Cluster
from edgecompile.contract.errors import UserError
from edgecompile.contract.plan import Plan
from edgecompile.measure.quick import own_kinds
from edgecompile.measure.quick.quick_sizes import QuickSizes, choose_sizes, grids_of
from edgecompile.measure.quick.this_machine import busy_beside, is_here, own_address
from edgecompile.measure.rounds import Span, spans_of
from edgecompile.measure.sizes import MeasuredSize
from edgecompile.measure.stretches import Atom, classes, stretches_of
from edgecompile.pipeline import compile_model
from edgecompile.profile import kept_profiles
from edgecompile.profile.kept_profiles import AskedSizes, ProfileCache
from edgecompile.profile.profile_file import Cost, Messages, Rates, read_profile
from edgecompile.terminal.console import steps

HOSTS = {
    "members": {
        "here": {"device": "local", "address": "127.0.0.1"},
        "there": {"device": "board", "address": "192.0.2.7"},
    }
}
QUICK = "profile.quick=4s"
NO_MESSAGES = Messages(send=Cost(), receive=Cost())


def compiled(folder: Path, *words: str, model: tuple[str, ...] = (*TINY_VIT, "microbatch=2")) -> Plan:
    """Of a host that is this machine, and one that is not."""
    devices = {"local": "local", "board": "raspberry_pi_5"}
    given = [*model, f"output_dir={folder}", *words]
    request, _ = composed_request(given, devices, HOSTS, None)
    return compile_model(request, steps)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's cache; edgecompile/profiles in it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The plan of the compile that measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        return compiled(tmp_path_factory.mktemp("first"), QUICK)


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "edgecompile" / "profiles").glob("*"))


@pytest.mark.slow
def test_this_machine_is_measured_and_the_plan_says_who_was_not(first: Plan, cache: Path) -> None:
    (path,) = kept(cache)
    profile = read_profile(path)
    assert (profile.device, profile.model, profile.sizes[0]) == ("local", "tiny_vit", 1)
    assert len(profile.units) == len(first.units)
    assert [note for note in first.notes if note.startswith("times of local: measured")]
    assert [note for note in first.notes if note.startswith("times of board: by data sheet, within about a factor of")]


@pytest.mark.slow
def test_the_second_compile_finds_the_profile_and_makes_the_same_plan(
    first: Plan, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [path.stat().st_mtime_ns for path in kept(cache)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(kept_profiles, "_MOST_DISTURBED", 1.0)  # other tests run beside this one
    again = compiled(tmp_path, QUICK)
    assert [path.stat().st_mtime_ns for path in kept(cache)] == before
    assert again == first


@pytest.mark.slow
def test_the_predicted_times_are_the_measured_ones(first: Plan, cache: Path, tmp_path: Path) -> None:
    """Of the kind that was measured; the other's are the roofline's, whatever this machine does."""
    (path,) = kept(cache)
    profile = read_profile(path)
    (own,) = [item for item in profile.microbatches if item.microbatch == 2]
    own_s = [max(wall, cpu / profile.machine.cores) for wall, cpu in zip(own.wall_s, own.cpu_s, strict=True)]
    measured = [unit.time_s["local"] for unit in first.units]
    assert measured == pytest.approx(own_s, rel=1e-3)
    sheet = compiled(tmp_path, "profile=analytic", "artifact=none")
    assert [unit.time_s["board"] for unit in first.units] == [unit.time_s["board"] for unit in sheet.units]
    assert [unit.time_s["local"] for unit in first.units] != [unit.time_s["local"] for unit in sheet.units]


@pytest.mark.slow
def test_a_file_of_edgeprofile_that_fits_is_taken_and_one_that_does_not_is_named(
    first: Plan, cache: Path, tmp_path: Path
) -> None:
    (path,) = kept(cache)
    folder = tmp_path / "profiles"
    folder.mkdir()
    mine = folder / "local-tiny_vit.yaml"
    shutil.copyfile(path, mine)
    plan = compiled(tmp_path / "fits", f"profile.folder={folder}")
    assert [note for note in plan.notes if "times of local: measured" in note and mine.name in note]

    document = yaml.safe_load(mine.read_text())
    mine.write_text(yaml.safe_dump({**document, "fingerprint": "0" * 64}))
    plan = compiled(tmp_path / "other", f"profile.folder={folder}")
    assert [note for note in plan.notes if "a profile that does not fit" in note and str(mine) in note]
    assert [note for note in plan.notes if note.startswith("times of local, board: by data sheet")]


@pytest.mark.slow
def test_a_profile_of_other_keys_and_values_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ("hidden_size=32", "intermediate_size=64", "num_hidden_layers=2", "num_attention_heads=4",
             "num_key_value_heads=2", "vocab_size=64")  # fmt: skip
    model = ("model=smollm2_135m", *(f"model.build.config.{size}" for size in sizes), "generation.context=64",
             "generation.chunk=8", "generation.prompt=8", "generation.tokens=8", "artifact=none")  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = compiled(tmp_path / "own", QUICK, "generation.cache=bf16", model=model)
    (path,) = kept(tmp_path / "cache")
    assert read_profile(path).cache == "bf16"
    (tmp_path / "profiles").mkdir()
    shutil.copyfile(path, tmp_path / "profiles" / "local-smollm2_135m.yaml")
    named = f"profile.folder={tmp_path / 'profiles'}"
    other = compiled(tmp_path / "other", named, "generation.cache=fp32", model=model)
    said = "local-smollm2_135m.yaml: measured with keys and values in bf16, which the plan keeps in fp32"
    assert [note for note in other.notes if said in note]
    assert not [note for note in own.notes if "measured with keys and values" in note]


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [(*hand_written("Convolutions"), "capture=symbolic_trace", "microbatch=3"), (*TINY_VIT, "microbatch=1")]
)
def test_shapes_that_are_fixed_are_measured_as_they_are(
    model: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(own_kinds, "measure_messages", lambda *_: (NO_MESSAGES, 0))
    plan = compiled(tmp_path / "out", QUICK, "artifact=none", model=model)
    (path,) = kept(tmp_path / "cache")
    assert read_profile(path).sizes == (plan.model.microbatch,)
    assert [note for note in plan.notes if note.startswith("times of local: measured")]


@pytest.mark.slow
def test_what_failed_is_tried_once_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With microbatch=auto profiles are looked for before it is chosen, and hold for the plan."""
    tried = []

    def fails(*_: object) -> None:
        tried.append(1)
        raise UserError("no loopback here")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(own_kinds, "measure_messages", fails)
    plan = compiled(tmp_path / "out", QUICK, "artifact=none", model=(*TINY_VIT, "microbatch=auto"))
    assert len(tried) == 1
    assert len([note for note in plan.notes if "no loopback here" in note]) == 1


@pytest.mark.slow
def test_without_time_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan = compiled(tmp_path / "out", "profile.quick=0s", "artifact=none")
    assert not (tmp_path / "cache").exists()
    assert [note for note in plan.notes if note.startswith("times of local, board: by data sheet")]


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "error", "told"), [
    ("measure_messages", UserError("no loopback here"), "no loopback here"),
    ("measure_chain", RuntimeError("index out of range\nat node 7"), "RuntimeError: index out of range"),
    ("solved_sizes", PermissionError(13, "Permission denied"), "[Errno 13] Permission denied"),
])  # fmt: skip
def test_what_cannot_be_measured_is_planned_for_by_data_sheet(
    broken: str, error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(own_kinds, "measure_messages", lambda *_: (NO_MESSAGES, 0))
    monkeypatch.setattr(own_kinds, broken, fails)
    plan = compiled(tmp_path / "out", QUICK)
    assert f"local is this machine, but was not measured: {told}" in plan.notes
    assert [note for note in plan.notes if note.startswith("times of local, board: by data sheet")]
    assert not list((tmp_path / "cache").rglob("*.yaml"))
    assert plan.golden.num_items  # the shards equal the model: the graph is as it was


@pytest.mark.slow
def test_a_profile_that_was_disturbed_is_measured_again(first: Plan, cache: Path, tmp_path: Path) -> None:
    (path,) = kept(cache)
    asked = AskedSizes.of_name(path.name)
    assert asked is not None
    own = ProfileCache(tmp_path, "local-tiny_vit-fp32", {"a": 1})
    document = yaml.safe_load(path.read_text())
    for disturbed, found in ((0.1, own.path(asked)), (0.9, None)):
        for item in document["microbatches"]:
            item["disturbed"] = disturbed
        own.path(asked).write_text(yaml.safe_dump(document))
        assert own.find(asked) == found
    own.path(asked).write_text("half a prof")
    assert own.find(asked) is None
    assert ProfileCache(tmp_path, "local-tiny_vit-fp32", {"a": 2}).find(asked) is None


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 64))
def test_a_profile_holds_for_fewer_items_and_extents_between(microbatch: int, least: int, more: int) -> None:
    asked = AskedSizes(microbatch=microbatch, least=least, most=least + more)
    assert AskedSizes.of_name(f"x-{asked.words}.yaml") == asked
    assert asked.covers(asked)
    assert asked.covers(replace(asked, microbatch=1, least=least + more))
    assert not asked.covers(replace(asked, microbatch=microbatch + 1))
    assert not asked.covers(replace(asked, most=least + more + 1))
    assert not asked.covers(replace(asked, least=0, most=0))


RATES = Rates(matrix_flops_per_s=1e9, memory_bytes_per_s=1e9, pack=Cost())
SPAN = Span("stretch 0-0", 0, 0, (Atom(0, 0),), (0,), 1)


def work(size: MeasuredSize) -> tuple[np.ndarray, np.ndarray]:
    """A tenth of a second for each position."""
    positions = size.microbatch * next(iter(size.extents.values()), 1)
    return np.array([1e8 * positions]), np.zeros(1)


@given(st.floats(0.5, 1e4), st.integers(1, 64), st.integers(1, 32), st.integers(1, 64))
def test_as_much_is_measured_as_there_is_time_for(limit_s: float, microbatch: int, least: int, most: int) -> None:
    asked = AskedSizes(microbatch=microbatch, least=min(least, most), most=most)

    def choose(seconds: float) -> QuickSizes | None:
        return choose_sizes(grids_of(asked, "length"), work, [SPAN], RATES, seconds)

    chosen = choose(limit_s)
    if chosen is None:
        assert limit_s < 12 * 2 * 0.1001 * most  # not even one item of the largest extent
        return
    assert chosen.takes_s <= limit_s
    assert min(size.microbatch for size in chosen.sizes) == 1
    assert {size.extents["length"] for size in chosen.sizes} <= set(range(asked.least, most + 1))
    twice = choose(2 * limit_s)
    assert twice is not None
    assert twice.microbatch >= chosen.microbatch
    everything = choose(1e12)
    assert everything is not None
    assert everything.microbatch == microbatch
    assert max(size.extents["length"] for size in everything.sizes) == most


def cluster(*hosts: str) -> Cluster:
    members = {f"h{place}": {"device": "local", "address": host} for place, host in enumerate(hosts)}
    return composed_request([], "local", {"members": members}, None)[0].cluster


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True), ("::1", True), ("192.0.2.1", False),
     ("0.0.0.0", False), ("jetson-1.local", False), ("224.0.0.1", False), ("", False)],
)  # fmt: skip
def test_an_address_is_this_machines_or_not(address: str, own: bool) -> None:
    assert own_address(address) is own


def test_a_kind_with_a_host_here_is_this_machine_if_it_has_what_it_computes_on() -> None:
    here, there = cluster("192.0.2.1", "127.0.0.1"), cluster("192.0.2.1")
    (device,) = here.devices
    assert is_here(device, here)
    assert not is_here(device, there)


@pytest.mark.parametrize(
    ("hosts", "cores", "threads", "busy"), [(1, 4, 1, 0), (2, 4, 1, 1), (4, 2, 1, 1), (2, 8, 4, 4)]
)
def test_other_ranks_of_this_machine_keep_its_other_cores_busy(hosts: int, cores: int, threads: int, busy: int) -> None:
    assert busy_beside(cluster(*["127.0.0.1"] * hosts), cores, threads) == busy


@pytest.mark.slow
def test_layers_of_a_language_model_are_alike_whichever_keys_and_values_they_read() -> None:
    sizes = ("hidden_size=32", "intermediate_size=64", "num_hidden_layers=4", "num_attention_heads=4",
             "num_key_value_heads=2", "vocab_size=64")  # fmt: skip
    chain, _ = captured_chain(["model=smollm2_135m", *(f"model.build.config.{size}" for size in sizes),
                               "generation.context=64", "generation.chunk=8", "generation.prompt=8",
                               "generation.tokens=8"], 2)  # fmt: skip
    repeated = max(len(alike) for alike in classes(stretches_of(chain, 1 << 30)).values())
    assert repeated >= 3
    assert len([span for span in spans_of(chain, 1 << 30, 0) if span.atoms]) < 4
