"""edgesched: PipeEdge's files and flags in, its schedule YAML out."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgecompile.commands.pipeedge_command import main
from edgecompile.contract.quantities import parse_time

MEBI = 1 << 20


def profile(*times: float, batch_size: int = 8, dtype: str = "torch.float32") -> dict[str, Any]:
    return {"batch_size": batch_size, "dtype": dtype, "time_s": list(times)}


def default_files() -> dict[str, Any]:
    return {
        "models": {
            "tiny": {
                "layers": 4,
                "mem_MB": [1.0, 1.0, 1.0, 1.0],
                "parameters_in": 100,
                "parameters_out": [10, 10, 10, 1],
            },
            "empty": {"layers": 0, "mem_MB": [], "parameters_in": 0, "parameters_out": []},
        },
        "device_types": {
            "dummy": {"bw_Mbps": 0, "mem_MB": 0, "model_profiles": None},
            "fast": {"bw_Mbps": 1000, "mem_MB": 64, "model_profiles": {"tiny": [profile(1.0, 1.0, 1.0, 1.0)]}},
            "slow": {"bw_Mbps": 100, "mem_MB": 64, "model_profiles": {"tiny": [profile(3.0, 3.0, 3.0, 3.0)]}},
        },
        "devices": {"dummy": [], "slow": ["s-0"], "fast": ["f-0"]},
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path, default_files())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(value))


def test_prints_the_schedule(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "tiny"]) == 0
    output = capsys.readouterr()
    assert output.out == "- s-0: [1, 1]\n- f-0: [2, 4]\n"
    assert "warning: device_types.yml: dummy: no profile of tiny" in output.err
    assert "Traceback" not in output.err


def test_unused_hosts_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = default_files()
    files["device_types"]["slow"]["model_profiles"]["tiny"] = [profile(9.0, 9.0, 9.0, 9.0)]
    write(folder, files)
    assert main(["-m", "tiny"]) == 0
    assert capsys.readouterr().out == "- f-0: [1, 4]\n"


@pytest.mark.parametrize(("room", "fits"), [(2.0, True), (2.0 - 1 / MEBI, False)])
def test_memory_must_be_below_the_device(
    folder: Path, capsys: pytest.CaptureFixture[str], room: float, fits: bool
) -> None:
    """1 MB of weights + batch 1 x 4 bytes x (in + out) + 2 x out, where in + 3 x out make one byte less than 1 MB."""
    files = default_files()
    files["models"]["tiny"] = {
        "layers": 1,
        "mem_MB": [1.0 - 1 / MEBI],
        "parameters_in": MEBI // 4 - 3,
        "parameters_out": [1],
    }
    kind = {"bw_Mbps": 1, "mem_MB": room, "model_profiles": {"tiny": [profile(1.0, batch_size=1)]}}
    write(folder, {**files, "device_types": {"fast": kind}, "devices": {"fast": ["f-0"]}})
    assert main(["-m", "tiny", "-b", "1"]) == (0 if fits else 2)
    if not fits:
        assert "f-0" in capsys.readouterr().err


def test_buffers_count(folder: Path) -> None:
    files = default_files()
    for kind in ("fast", "slow"):
        files["device_types"][kind]["mem_MB"] = 2.2
    files["models"]["tiny"]["parameters_out"] = [1000, 1000, 1000, 1000]
    write(folder, files)
    assert main(["-m", "tiny", "-i", "0", "-o", "0"]) == 0
    assert main(["-m", "tiny", "-i", "9", "-o", "9"]) == 2


def brute_force(files: dict[str, Any]) -> float:
    """The least period by PipeEdge's rules, over every cut and every order of hosts."""
    model = files["models"]["tiny"]
    hosts = [(host, files["device_types"][kind]) for kind, names in files["devices"].items() for host in names or ()]
    layers = model["layers"]
    sizes = [32 * count for count in (model["parameters_in"], *model["parameters_out"])]
    least = float("inf")
    for count in range(1, min(len(hosts), layers) + 1):
        for inner in itertools.combinations(range(1, layers), count - 1):
            cuts = (0, *inner, layers)
            for chosen in itertools.permutations(hosts, count):
                figures = []
                for k, (_, kind) in enumerate(chosen):
                    i, j = cuts[k], cuts[k + 1]
                    buffers = (2 * sizes[i] if i else 0) + 2 * sizes[j] + sizes[i] + sizes[j]
                    if sum(model["mem_MB"][i:j]) * MEBI + buffers >= kind["mem_MB"] * MEBI:
                        break
                    figures.append(sum(kind["model_profiles"]["tiny"][0]["time_s"][i:j]))
                    if k + 1 < count:
                        rate = min(kind["bw_Mbps"], chosen[k + 1][1]["bw_Mbps"]) * MEBI / 8
                        figures.append(sizes[j] / rate)
                else:
                    least = min(least, max(figures))
    return least


@pytest.mark.parametrize("seed", range(40))
def test_random_files_equal_brute_force(folder: Path, capsys: pytest.CaptureFixture[str], seed: int) -> None:
    rng = random.Random(seed)
    layers = rng.randint(1, 6)
    files = {
        "models": {
            "tiny": {
                "layers": layers,
                "mem_MB": [rng.uniform(1, 9) for _ in range(layers)],
                "parameters_in": rng.randint(1, 50_000),
                "parameters_out": [rng.randint(1, 50_000) for _ in range(layers)],
            }
        },
        "device_types": {
            name: {
                "bw_Mbps": rng.choice((1, 10, 100)),
                "mem_MB": rng.choice((12.0, 30.0, 500.0)),
                "model_profiles": {"tiny": [profile(*(rng.uniform(0.1, 2.0) for _ in range(layers)))]},
            }
            for name in ("a", "b")
        },
        "devices": {
            "a": [f"a-{k}" for k in range(rng.randint(0, 2))],
            "b": [f"b-{k}" for k in range(rng.randint(1, 2))],
        },
    }
    write(folder, files)
    want = brute_force(files)
    status = main(["-m", "tiny", "--verbose"])
    output = capsys.readouterr()
    if want == float("inf"):
        assert status == 2
        return
    assert status == 0
    figure, unit = output.err.split("period ")[-1].replace(",", " ").split()[:2]
    period = parse_time(f"{figure}{unit}", "period")
    assert period == pytest.approx(want, rel=1e-5)
    stages = [next(iter(stage.values())) for stage in yaml.safe_load(output.out)]
    assert (stages[0][0], stages[-1][1]) == (1, layers)
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(stages))


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["-m", "none"], "no model none: the models are empty, tiny"),
        ({}, ["-m", "empty"], "layers is 0"),
        ({}, ["-m", "tiny", "-b", "4"], "no device type has a profile of tiny with torch.float32 and batch size 4"),
        ({}, ["-m", "tiny", "-b", "x"], "argument -b/--batch-size: invalid whole number value: 'x'"),
        ({}, ["-m", "tiny", "-b", "0"], "0 is not from 1 up"),
        ({}, ["-m", "tiny", "-M", "nowhere.yml"], "nowhere.yml: no such models file"),
        ({}, ["--nonsense"], "unrecognized argument --nonsense: see edgesched --help"),
        ({"models": []}, ["-m", "tiny"], "models.yml: not a models file: expected a mapping"),
        ({"models": {"tiny": {"layers": 4}}}, ["-m", "tiny"], "the key parameters_in is missing"),
        (
            {"models": {"tiny": {"layers": 2, "mem_MB": [1.0], "parameters_in": 1, "parameters_out": [1, 1]}}},
            ["-m", "tiny"],
            "mem_MB has 1 entries: expected 2",
        ),
        (
            {"models": {"tiny": {"layers": 1, "mem_MB": [-1.0], "parameters_in": 1, "parameters_out": [1]}}},
            ["-m", "tiny"],
            "mem_MB.0 is -1.0",
        ),
        ({"devices": {"fast": ["f-0", "f-0"]}}, ["-m", "tiny"], "the host f-0 is listed under fast and under fast"),
        ({"devices": {"fast": "f-0"}}, ["-m", "tiny"], "fast: expected a list of host names"),
        ({"devices": {"fast": []}}, ["-m", "tiny"], "no host of a type with a matching profile"),
        ({}, ["-m", "tiny", "--to-conf", "out"], "the work of tiny is not known"),
        ({}, ["-m", "tiny", "--to-conf", "out", "--flops", "1e9", "--conf-name", "a/b"], "--conf-name a/b"),
    ],
)
def test_errors_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], arguments: list[str], message: str
) -> None:
    write(folder, {**default_files(), **change})
    assert main(arguments) == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if "warning:" not in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert output.out == ""


def test_bandwidth_zero_is_refused_where_hosts_need_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = default_files()
    files["device_types"]["fast"]["bw_Mbps"] = 0
    write(folder, files)
    assert main(["-m", "tiny"]) == 2
    assert "bw_Mbps is 0, but host f-0" in capsys.readouterr().err


def test_short_parameters_out_is_repeated_with_a_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = default_files()
    files["models"]["tiny"]["parameters_out"] = [10, 20]
    write(folder, files)
    assert main(["-m", "tiny"]) == 0
    assert "parameters_out has 2 entries for 4 layers" in capsys.readouterr().err


def test_converts_to_conf(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "tiny", "--to-conf", "out", "--flops", "1e9", "--conf-name", "lab"]) == 0
    devices = yaml.safe_load((folder / "out/devices/lab.yaml").read_text())
    hosts = yaml.safe_load((folder / "out/hosts/lab.yaml").read_text())
    assert devices["fast"]["memory"] == 64 * MEBI
    assert devices["fast"]["peak"] == {"float32": "2 GFLOPS"}
    assert devices["slow"]["network"] == "100Mibps"
    assert hosts["members"] == {
        "s-0": {"device": "slow", "address": "s-0"},
        "f-0": {"device": "fast", "address": "f-0"},
    }


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("edgesched ")
