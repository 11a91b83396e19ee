"""What all commands have in common: errors in one line with what may have been meant, --json, --quiet, completion."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgecompile.commands import compile_command as cli
from edgecompile.commands import profile_command as profile_cli
from edgecompile.commands.pipeedge_command import main as edgesched
from edgecompile.commands.plan_command import main as edgeplan
from edgecompile.contract.errors import choices, nearest
from edgecompile.terminal.console import choose_output, output_options
from edgecompile.terminal.options import Parser, completion_script
from edgelaunch.commands.launch_command import main as edgelaunch

sys.path.append(str(Path(__file__).parent / "explore"))
from explore_plans import make_plan

from edgecompile.contract.plan import Plan
from edgecompile.contract.plan_file import write_plan

TIED = ("model=custom", "model.build._target_=hand_written.Tied", "model.inputs={ids: {shape: [7], dtype: int64}}")


def hydra_command(main: Callable[[], int], name: str) -> Callable[[Sequence[str]], int]:
    def run(words: Sequence[str]) -> int:
        sys.argv[:] = [name, *words]
        return main()

    return run


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "edgecompile": hydra_command(cli.main, "edgecompile"),
    "edgeprofile": hydra_command(profile_cli.main, "edgeprofile"),
    "edgeplan": edgeplan,
    "edgesched": edgesched,
    "edgelaunch": edgelaunch,
}


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What the commands change of this process."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    for name in ("EDGECOMPILE_OUTPUT", "HYDRA_FULL_ERROR", "EDGECOMPILE_SWEEP", "EDGECOMPILE_SWEEP_DIR"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run(*words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = COMMANDS[words[0]](words[1:])
        except SystemExit as ended:  # --version and the like
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def plan() -> Plan:
    return make_plan({"quick": [0.01, 0.02], "slow": [0.02, 0.04]}, [("a", "slow"), ("b", "quick")], [400, 8000, 40])


@pytest.fixture
def path(tmp_path: Path) -> str:
    write_plan(plan(), tmp_path / "plan.yaml")
    return str(tmp_path / "plan.yaml")


MISTAKES = [
    ("edgecompile --jsn", "--json"),
    ("edgecompile --mutlirun seed=1", "--multirun"),
    ("edgeprofile --quite", "--quiet"),
    ("edgeplan shw plan.yaml", "show"),
    ("edgeplan show plan.yaml --timelin-", "--timeline"),
    ("edgeplan simulate plan.yaml --set hosts.a.bandwith=5Mbps", "bandwidth"),
    ("edgeplan simulate plan.yaml --set runtime.num_bufers_in=5", "runtime.num_buffers_in"),
    ("edgeplan simulate plan.yaml --set host.a.bandwidth=5Mbps", "hosts.a.bandwidth"),
    ("edgeplan simulate plan.yaml --drop bb", "b"),
    ("edgelaunch lnks plan.yaml", "edgelaunch links"),
    ("edgelaunch Doctor plan.yaml", "edgelaunch doctor"),
    ("edgelaunch plan.yaml --locl", "--local"),
    ("edgelaunch plan.yaml --on_bad_item=gap", "--on-bad-item"),
    ("edgelaunch plan.yaml --when-full drop-oldst", "drop-oldest"),
    ("edgelaunch links plan.yaml --secons 3", "--seconds"),
    ("edgesched --bach-size 3", "--batch-size"),
    ("edgesched --dtyp=x --foo", ""),
]


@pytest.mark.parametrize(("words", "meant"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_typing_error_is_one_line_with_what_was_meant(words: str, meant: str, path: str) -> None:
    code, out, err = run(*words.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "Traceback" not in err
    if meant:
        assert f"did you mean {meant}" in err


def test_what_is_like_a_name() -> None:
    names = ["hidden_size", "num_hidden_layers", "vit_base", "vit_huge", "deit_base"]
    assert nearest("hiden_size", names) == ["hidden_size"]
    assert nearest("--Hidden-Size", names) == ["hidden_size"]
    assert nearest("vit", names) == ["vit_base", "vit_huge"]
    assert nearest("vit_bse", names) == ["vit_base"]
    for nothing in ("", "x", "zebra", None, 3, "vit_base"):
        assert "vit_base" not in nearest(nothing, names)
    assert choices(["b", "a"], "zz") == "a, b"
    assert choices(["cuda", "cpu"], "cud") == "cpu, cuda (did you mean cuda?)"


@pytest.mark.parametrize("name", COMMANDS)
def test_version_and_completion_are_all_that_is_printed(name: str) -> None:
    code, out, err = run(name, "--version")
    assert (code, err) == (0, "")
    assert out.startswith(f"{name} ")
    code, out, err = run(name, "--completion", "zsh")
    assert (code, err) == (0, "")
    assert f"compdef _shtab_{name}" in out


@pytest.mark.parametrize(
    "command", ["show", "explain", "simulate", "compare", "diff", "report", "export", "show --timeline"]
)
def test_every_edgeplan_command_has_json_and_quiet(command: str, path: str) -> None:
    words = {"diff": [path], "export": ["--perfetto", "trace.json"]}.get(command, [])
    code, out, err = run("edgeplan", *command.split(), path, *words, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)
    code, out, err = run("edgeplan", *command.split(), path, *words, "--quiet")
    assert (code, err) == (0, "")
    assert (out == "") == (command in ("report", "export")), "their result is the file"


def test_what_show_says_in_json(path: str) -> None:
    figures = json.loads(run("edgeplan", "show", path, "--json", "--timeline", "--microbatches", "2")[1])
    made = plan()
    assert figures["predicted"]["period_s"] == made.predicted.period_s
    assert [stage["host"] for stage in figures["stages"]] == [made.hosts[stage.rank].name for stage in made.stages]
    assert figures["model"]["num_units"] == 2
    assert figures["timeline"][0]["spans"]
    assert figures["provenance"] is None


def files_of_pipeedge(folder: Path) -> None:
    documents: dict[str, Any] = {
        "models": {"m": {"layers": 2, "mem_MB": [1.0, 1.0], "parameters_in": 100, "parameters_out": [10, 1]}},
        "device_types": {
            "none": {"bw_Mbps": 0, "mem_MB": 0, "model_profiles": None},
            "fast": {"bw_Mbps": 1000, "mem_MB": 64, "model_profiles": {
                "m": [{"batch_size": 8, "dtype": "torch.float32", "time_s": [1.0, 1.0]}]}},
        },
        "devices": {"none": [], "fast": ["f-0", "f-1"]},
    }  # fmt: skip
    for name, value in documents.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump(value))


def test_edgesched_answers_in_json(tmp_path: Path) -> None:
    files_of_pipeedge(tmp_path)
    code, out, err = run("edgesched", "-m", "m", "--quiet", "--json")
    assert (code, err) == (0, "")  # no warning of the type without a profile
    found = json.loads(out)
    assert [stage["layers"] for stage in found["stages"]] == [[1, 1], [2, 2]]
    assert found["predicted"]["throughput_items_per_s"] == pytest.approx(8 / found["predicted"]["period_s"])
    plain = yaml.safe_load(run("edgesched", "-m", "m")[1])
    assert [next(iter(stage)) for stage in plain] == [stage["host"] for stage in found["stages"]]
    code, out, _ = run("edgesched", "-m", "m", "--quiet", "--json", "--to-conf", "conf", "--flops", "1e9")
    assert [Path(name).is_file() for name in json.loads(out)["files"]] == [True, True]


@pytest.mark.slow
def test_edgecompile_answers_in_json_alone_and_for_a_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "compiler"))
    code, out, err = run("edgecompile", *TIED, "--json", "microbatch=2", "--quiet")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["plan"], found["model"]["microbatch"]) == ("outputs/plan.yaml", 2)
    assert found["provenance"]["overrides"][-1] == "microbatch=2"
    code, out, err = run("edgecompile", *TIED, "microbatch=0,1", "-m", "--json", "--quiet")
    assert code == 0
    found = json.loads(out)
    assert (found["swept"], found["best"], len(found["jobs"])) == (["microbatch"], 1, 2)
    assert err.splitlines() == ["edgecompile: invalid value 0 for microbatch: expected 1 to 1,048,576, or auto"]
    assert found == json.loads((tmp_path / "outputs/multirun/manifest.json").read_text()) | {"jobs": found["jobs"]}


def test_what_was_asked_for_is_forgotten_with_the_command() -> None:
    choose_output(json=True, quiet=True)
    assert run("edgecompile", "--cfg", "job")[0] == 0
    assert (output_options().json, output_options().quiet) == (False, False)


BASH = """
eval "$SCRIPT"
COMP_LINE="$LINE" COMP_POINT=${#LINE} COMP_WORDS=("$@") COMP_CWORD=$(( $# - 1 ))
function=$(complete -p "$1"); function=${function##*-F }
"${function%% *}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Does what bash does at a tab, with the words as it parts them: at = too."""

COMPLETED = [
    ("edgeplan", "s", {"show", "simulate"}),
    ("edgeplan show --ti", "", {"--timeline"}),
    ("edgeplan show pl", "", {"plan.yaml"}),
    ("edgeplan export --perfetto pl", "", {"plan.yaml"}),
    ("edgeplan --comp", "", {"--completion"}),
    ("edgelaunch l", "", {"links"}),
    ("edgelaunch pl", "", {"plan.yaml"}),
    ("edgelaunch plan.yaml --loc", "", {"--local"}),
    ("edgelaunch plan.yaml --log-level", " ", {"debug", "info", "warning", "error"}),
    ("edgelaunch s", "", {"serve"}),
    ("edgelaunch serve pl", "", {"plan.yaml"}),
    ("edgelaunch serve plan.yaml --max", "", {"--max-queue", "--max-body", "--max-connections"}),
    ("edgelaunch agent --fol", "", {"--folder"}),
    ("edgelaunch agent --folder fol", "", {"folder"}),
    ("edgelaunch boards --li", "", {"--links"}),
    ("edgelaunch profile --bo", "", {"--boards"}),
    ("edgeplan figure pl", "", {"plan.yaml"}),
    ("edgeplan compare --cs", "", {"--csv"}),
    ("edgelaunch links plan.yaml --sec", "", {"--seconds", "--secret-file"}),
    ("edgelaunch doctor plan.yaml --js", "", {"--json"}),
    ("edgelaunch plan.yaml --on-bad-item", " ", {"stop", "gap"}),
    ("edgesched --to-conf fol", "", {"folder"}),
    ("edgesched --batch", "", {"--batch-size"}),
    ("edgecompile --multi", "", {"--multirun"}),
    ("edgecompile --config-dir fol", "", {"folder"}),
    ("edgeprofile --qu", "", {"--quiet"}),
    ("edgecompile --log", "", {"--log-level", "--log-json"}),
    ("edgeprofile --log-level", " ", {"debug", "info", "warning", "error"}),
]


def completed(line: str, tmp_path: Path) -> set[str]:
    name = line.split(maxsplit=1)[0]
    code, script, _ = run(name, "--completion", "bash")
    assert code == 0
    words = line.replace("=", " = ").split() + ([""] if line.endswith((" ", "=")) else [])
    environ = os.environ | {"SCRIPT": script, "LINE": line,
                            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    done = subprocess.run(["bash", "--norc", "-c", BASH, "bash", *words], capture_output=True, text=True, env=environ,
                          cwd=tmp_path, timeout=60)  # fmt: skip
    return set(filter(None, done.stdout.splitlines()))


@pytest.mark.parametrize(("line", "more", "wanted"), COMPLETED, ids=[line for line, _, _ in COMPLETED])
def test_bash_completes(line: str, more: str, wanted: set[str], path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    text = f"{line} {more}" if more == "s" else line + more
    assert completed(text, tmp_path) == wanted


@pytest.mark.slow
def test_bash_completes_keys_and_options_of_the_config(tmp_path: Path) -> None:
    """Through the installed command, which asks Hydra."""
    assert completed("edgecompile microbatch=2 devices=jet", tmp_path) == {"jetson_cluster", "jetson_legacy"}
    assert completed("edgeprofile -m profile.rou", tmp_path) == {"profile.rounds="}


def test_a_parser_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ValueError, match="pip install shtab"):
        completion_script(Parser(prog="x"), "bash")
