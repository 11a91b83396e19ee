"""Orders: read back as they were written; whatever else comes is one line."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompile.contract.errors import UserError
from edgelaunch.boards.job_orders import JobKind, JobNews, JobOrder, words_for_data_host
from edgelaunch.commands.on_boards.run_on_boards import options_of_data_host
from edgelaunch.common.failures import Failure, FailureKind
from edgelaunch.request.run_request import RunRequest

ORDER = JobOrder(job="0" * 32, kind=JobKind.RUN, caller="me@here", plan_sha256="1" * 64, rank=2, master="[::1]:29500",
                 restarts=3, options=(("verify", ""), ("items", "7")), input_sha256="2" * 64, input_name="input.npy",
                 output_name="output.npy")  # fmt: skip


def test_an_order_is_read_back() -> None:
    assert JobOrder.read(ORDER.to_json()) == ORDER
    profile = JobOrder(job="a" * 32, kind=JobKind.PROFILE, models=("deit_tiny",))
    assert JobOrder.read(profile.to_json()) == profile


@pytest.mark.parametrize(
    ("key", "value"),
    [("job", "../../etc"), ("job", "0" * 33), ("kind", "shell"), ("kind", ["run"]), ("plan_sha256", "../plan"),
     ("rank", -1), ("rank", True), ("rank", "1"), ("restarts", 10**9), ("threads", 0), ("threads", 1.5),
     ("master", "nowhere"),
     ("options", [["plan_path", "/etc/passwd"]]), ("options", [["output", "/etc/passwd"]]), ("options", [["run", "x"]]),
     ("options", [["secret_file", "x"]]), ("options", [["metrics_port", "80"]]), ("options", [["verify"]]),
     ("options", "verify"), ("input_name", "../x.npy"), ("input_name", ".npy"), ("output_name", "a/b.npy"),
     ("output_name", "x\n"), ("input_sha256", ""), ("caller", "a\nb"), ("models", ["x"]), ("command", "rm")],
)  # fmt: skip
def test_an_order_that_is_not_allowed_is_refused(key: str, value: object) -> None:
    values = json.loads(ORDER.to_json())
    if key == "models":
        values = {"job": "0" * 32, "kind": "profile", "models": ["x", "a/../b"]}
    else:
        values[key] = value
    with pytest.raises(UserError):
        JobOrder.read(json.dumps(values).encode())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
                    | st.dictionaries(st.sampled_from([*json.loads(ORDER.to_json()), "x"]), inner)))  # fmt: skip
def test_any_json_is_read_or_refused(value: object) -> None:
    for changed in (value, {**json.loads(ORDER.to_json()), **(value if isinstance(value, dict) else {})}):
        with contextlib.suppress(UserError):
            assert JobOrder.read(json.dumps(changed).encode()).job == "0" * 32
    with contextlib.suppress(UserError):
        JobNews.read(json.dumps(value).encode())


@given(st.binary())
def test_any_bytes_are_refused(data: bytes) -> None:
    for read in (JobOrder.read, JobNews.read):
        with pytest.raises(UserError):
            read(data)  # type: ignore[operator]


def test_news_are_read_back() -> None:
    failure = Failure(rank=1, kind=FailureKind.LEFT, message="left")
    news = JobNews(next=7, entries=(("out", "a\n"), ("err", "b")), ended=True, failure=failure, files=("run.json",))
    assert JobNews.read(news.to_json()) == news
    assert JobNews.read(replace(news, files=("../x", "ok")).to_json()).files == ("ok",)


def test_what_the_user_asked_for_is_what_the_rank_is_asked() -> None:
    asked = RunRequest(
        plan_path=Path("p"), boards=True, verify=True, items=7, temperature=0.5, stop="-x", input=Path("x.npy")
    )
    order = replace(ORDER, options=options_of_data_host(asked))
    request = order.request(Path("/agent/plan.yaml"), Path("/agent/in.npy"), None, Path("/agent/run.json"))
    assert isinstance(request, RunRequest)
    assert (request.verify, request.items, request.temperature, request.stop) == (True, 7, 0.5, "-x")
    assert (request.plan_path, request.input, request.rank) == (Path("/agent/plan.yaml"), Path("/agent/in.npy"), 2)
    assert not request.boards


def test_no_option_of_an_order_names_a_file() -> None:
    known = words_for_data_host(RunRequest)
    assert {"verify", "items", "prompt", "json", "quiet", "seed"} <= set(known)
    assert not {"input", "output", "run", "secret_file", "plan_path", "metrics_port", "master", "rank"} & set(known)


def test_options_that_do_not_go_together_are_one_line() -> None:
    order = replace(ORDER, options=(("items", "-3"),))
    with pytest.raises(UserError, match="items"):
        order.request(Path("p"), None, None, Path("r"))
    with pytest.raises(UserError, match="options"):
        replace(ORDER, options=(("items", "many"),)).request(Path("p"), None, None, Path("r"))
