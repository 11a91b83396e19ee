"""What an agent answers, and to whom: in this process, at a port of the loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import launch_plans
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch_harness import free_port

from edgecompile.contract.errors import UserError
from edgecompile.contract.files.atomic_files import file_sha256
from edgelaunch.boards.agent import agent_server, rank_job
from edgelaunch.boards.agent.agent_server import AgentServer
from edgelaunch.boards.agent.board_agent import BoardAgent
from edgelaunch.boards.board_client import BoardClient, NoAgentError, OtherSecretError
from edgelaunch.boards.board_list import ask_board, find_boards
from edgelaunch.boards.job_orders import JobKind, JobNews, JobOrder
from edgelaunch.boards.plan_hashes import hashes_of
from edgelaunch.boards.signed_requests import CHALLENGE, make_proof, sha256_of
from edgelaunch.common.addresses import Address
from edgelaunch.common.failures import FailureKind
from edgelaunch.common.secret import VARIABLE

SECRET = b"sixteen bytes or more"
JOB = "0" * 32


class Served:
    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, list[str]()
        self.agent = BoardAgent("pi", SECRET, None, folder, self.lines.append)
        self.address = Address("127.0.0.1", free_port())
        self.server = AgentServer(self.address, self.agent)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def client(self, secret: bytes = SECRET) -> BoardClient:
        return BoardClient(self.address, secret)

    def raw(self, data: bytes) -> bytes:
        """What is answered to these bytes, until the connection ends."""
        with socket.create_connection((self.address.host, self.address.port), 20.0) as channel:
            answer = b""
            with contextlib.suppress(OSError):  # refused before all was read
                channel.sendall(data)
                channel.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while piece := channel.recv(1 << 16):
                    answer += piece
            return answer

    def signed(self, method: str, target: str, body: bytes, secret: bytes = SECRET, **headers: str) -> tuple[int, str]:
        """The status, and the error if it is one; with headers in place of the right ones."""
        session = self.agent.session
        proof = make_proof(secret, session.name, method, target, sha256_of(body), session.time_ms())
        return self.sent(method, target, body, proof.headers() | {"Content-Length": str(len(body))} | headers)

    def sent(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        answer = self.raw(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
        top, _, rest = answer.partition(b"\r\n\r\n")
        return int(top.split()[1]), json.loads(rest).get("error", "")

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.agent.end()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv(VARIABLE, SECRET.decode())
    served = Served(tmp_path / "agent")
    yield served
    served.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("agent"))
    yield served
    served.close()


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# --- who is answered --------------------------------------------------------------------------------------------------


def test_who_knows_the_secret_is_told_what_the_board_is(served: Served) -> None:
    board, peers = ask_board(served.client())
    assert (board.facts.name, board.facts.busy, peers) == ("pi", "", [])
    assert abs(board.clock_ahead_s) < 1.0


def test_another_secret_is_refused_on_both_ends(served: Served) -> None:
    with pytest.raises(OtherSecretError, match="another secret: give both the same"):
        served.client(b"another secret than it").board()
    status, error = served.signed("GET", "/board", b"", b"another secret than it")
    assert (status, "secret" in error) == (401, True)


def test_a_recorded_request_is_refused(served: Served) -> None:
    session = served.agent.session
    headers = make_proof(SECRET, session.name, "GET", "/board", sha256_of(b""), session.time_ms()).headers()
    assert served.sent("GET", "/board", b"", headers)[0] == 200
    assert served.sent("GET", "/board", b"", headers) == (401, "the request was made before")


def test_an_agent_that_was_started_again_is_asked_again(tmp_path: Path) -> None:
    first = Served(tmp_path / "first")
    client = first.client()
    client.board()
    first.close()
    second = Served(tmp_path / "second")
    try:
        client.address = second.address
        assert client.board()["name"] == "pi"
    finally:
        second.close()


def test_who_poses_as_an_agent_is_found_out(served: Served) -> None:
    """It passes the greeting on, but does not know the secret: nothing that it answers then counts."""

    client = served.client()
    client.board()
    served.agent.session._secret = b"what it does not know"
    with pytest.raises(OtherSecretError):
        client.board()


def test_what_is_no_agent_is_named() -> None:
    with pytest.raises(NoAgentError, match="no agent answers there"):
        BoardClient(Address("127.0.0.1", free_port()), SECRET).board()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            channel, _ = server.accept()
            with channel:
                channel.recv(1000)
                channel.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NoAgentError):
            BoardClient(Address("127.0.0.1", server.getsockname()[1]), SECRET).board()
        thread.join()


def test_boards_that_join_are_told_and_forgotten(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Served(served.folder.parent / "other")
    try:
        served.client().join(other.address.port)
        found = find_boards(SECRET, [served.address], 0.0)
        assert {board.address for board in found.boards} == {served.address, other.address}
        assert [board.facts.name for board in found.boards] == ["pi", "pi-2"]
        assert found.problems == ()
    finally:
        other.close()
    found = find_boards(SECRET, [served.address], 0.0)
    assert len(found.boards) == 1
    assert "no agent answers there" in found.problems[0]
    monkeypatch.setattr("edgelaunch.boards.agent.board_agent.PEER_S", 0.0)
    assert find_boards(SECRET, [served.address], 0.0).problems == ()


# --- what it takes ----------------------------------------------------------------------------------------------------


def test_a_plan_and_its_files_are_taken_with_their_hashes(served: Served, two_stages: launch_plans.Written) -> None:
    client, folder = served.client(), two_stages.path.parent
    sha256 = client.send_plan(two_stages.path)
    kept = served.folder / "plans" / sha256
    assert (kept / "plan.yaml").read_bytes() == two_stages.path.read_bytes()
    wanted = dict(hashes_of(two_stages.plan))
    assert client.lacking(sha256) == set(wanted.values())
    for name, digest in wanted.items():
        client.send_file(sha256, folder / name, digest)
        assert (kept / name).read_bytes() == (folder / name).read_bytes()
    assert client.lacking(sha256) == set()
    other = two_stages.path
    with pytest.raises(UserError, match="names no such file"):
        client.send_file(sha256, other, file_sha256(other))
    assert {path.relative_to(kept).as_posix() for path in files_of(kept)} == {"plan.yaml", *wanted}


def test_what_is_not_what_it_is_said_to_be_is_refused(served: Served, two_stages: launch_plans.Written) -> None:
    before = files_of(served.folder)
    body = two_stages.path.read_bytes()
    status, error = served.signed("PUT", f"/plans/{sha256_of(b'other')}", body)
    assert (status, "another sha256" in error) == (400, True)
    good = f"/plans/{sha256_of(body)}"
    status, error = served.signed("PUT", good, body, **{"Content-Length": str(len(body) - 1)})
    assert (status, "another sha256" in error) == (400, True)
    status, error = served.signed("PUT", good, body, **{"Content-Length": str(len(body) + 1)})
    assert (status, "did not come whole" in error) == (400, True)
    assert served.signed("PUT", good, body, **{"Content-Length": str(1 << 40)})[0] == 413
    assert served.signed("PUT", good, body, **{"Content-Length": "-1"})[0] == 411
    assert served.signed("PUT", good, body, **{"Transfer-Encoding": "chunked"})[0] == 411
    status, error = served.signed("PUT", f"/plans/{sha256_of(b'version: 1')}", b"version: 1")
    assert (status, "\n" in error, str(served.folder) in error) == (400, False, False)
    assert files_of(served.folder) == before


@pytest.mark.parametrize("target", [
    "/", "/board/", "/jobs/../board", f"/inputs/{'0' * 64}/..", f"/inputs/{'0' * 64}/../../x", f"/inputs/{'0' * 64}/.x",
    f"/inputs/{'0' * 64}/a%2fb", f"/plans/{'0' * 63}", f"/plans/{'0' * 64}/files/../../x", "/plans/../x", "//board",
    f"/jobs/{JOB}/files/../../../plan.yaml", f"/jobs/{JOB}/log/-1", f"/jobs/{JOB}/log/{'9' * 16}",
])  # fmt: skip
def test_no_path_leaves_the_folder(served: Served, target: str) -> None:
    before = files_of(served.folder.parent)
    for method in ("GET", "PUT", "POST"):
        assert served.signed(method, target, b"x")[0] in (401, 404)
    assert files_of(served.folder.parent) == before


def test_an_order_of_what_is_not_here_is_refused(served: Served) -> None:
    client = served.client()
    order = JobOrder(job=JOB, kind=JobKind.RUN, plan_sha256="1" * 64)
    with pytest.raises(UserError, match="the plan is not here"):
        client.start(order)
    for call in (lambda: client.news(JOB, 0), lambda: client.end(JOB), lambda: client.lacking("1" * 64)):
        with pytest.raises(UserError, match=r"no such job|not here"):
            call()
    assert served.signed("POST", "/jobs", b'{"kind": "shell"}')[0] == 400
    assert served.signed("POST", "/jobs", b"[" * 100_000)[0] == 400
    assert served.signed("POST", "/jobs", b"x" * (5 << 20))[0] == 413


# --- jobs ------------------------------------------------------------------------------------------------------------


def follow(client: BoardClient, job: str) -> tuple[str, JobNews]:
    """All that it printed, and its end."""
    said, since, deadline = "", 0, time.monotonic() + 60.0
    while True:
        news = client.news(job, since)
        since = news.next
        said += "".join(text for _, text in news.entries)
        if news.ended:
            return said, news
        assert time.monotonic() < deadline, said


@pytest.mark.slow
def test_a_rank_alone_runs_and_leaves_its_results(
    served: Served, one_stage: launch_plans.Written, tmp_path: Path
) -> None:
    client = served.client()
    sha256 = client.send_plan(one_stage.path)
    for name, digest in hashes_of(one_stage.plan):
        client.send_file(sha256, one_stage.path.parent / name, digest)
    order = JobOrder(job=JOB, kind=JobKind.RUN, plan_sha256=sha256, output_name="output.npy", master="127.0.0.1:29998",
                     options=(("items", "4"),))  # fmt: skip
    client.start(order)
    client.start(order)  # as when the answer was lost: it is the same job
    with pytest.raises(UserError, match="busy with rank 0 of a run that"):
        client.start(JobOrder(job="1" * 32, kind=JobKind.RUN, plan_sha256=sha256))
    said, news = follow(client, JOB)
    assert news.failure is None, said
    assert "4 results in" in said
    assert {"output.npy", "run.json"} <= set(news.files)
    client.fetch(JOB, "output.npy", tmp_path / "y.npy")
    assert (tmp_path / "y.npy").stat().st_size > 100
    with pytest.raises(UserError, match="no such file"):
        client.fetch(JOB, "other.npy", tmp_path / "z.npy")
    assert not (tmp_path / "z.npy").exists()
    with pytest.raises(UserError, match="cannot be written"):
        client.fetch(JOB, "output.npy", Path("/proc/y.npy"))


@pytest.mark.slow
def test_a_rank_whose_caller_is_gone_is_ended(
    served: Served, two_stages: launch_plans.Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_job, "LEASE_S", 1.0)
    client = served.client()
    sha256 = client.send_plan(two_stages.path)
    client.start(JobOrder(job=JOB, kind=JobKind.RUN, plan_sha256=sha256, rank=1, master="127.0.0.1:29997"))
    job = served.agent._job
    assert job is not None
    job._thread.join(30.0)
    assert not job.running
    assert "no word of the caller" in follow(client, JOB)[0]


@pytest.mark.slow
def test_a_rank_that_fails_says_why(served: Served, two_stages: launch_plans.Written) -> None:
    client = served.client()
    sha256 = client.send_plan(two_stages.path)
    client.start(JobOrder(job=JOB, kind=JobKind.RUN, plan_sha256=sha256, rank=0, master="127.0.0.1:29996"))
    failure = follow(client, JOB)[1].failure
    assert failure is not None
    assert failure.kind is FailureKind.USER
    assert "is missing" in failure.message


def test_a_board_that_cannot_compile_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgelaunch.boards.board_facts.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"edgecompile\[compile\]"):
        served.client().start(JobOrder(job=JOB, kind=JobKind.PROFILE, models=("deit_tiny",)))


# --- strangers -------------------------------------------------------------------------------------------------------


def refused(answer: bytes) -> bool:
    """Nothing, or an answer of one line that is not signed."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer:
        return True
    status = int(head.split()[1])
    return 400 <= status < 600 and b"Traceback" not in body and b"\n" not in body


LONG = b"A long line"
"""Stands for one that is longer than a request's line may be: Hypothesis prints what it draws from."""
LINES = st.sampled_from([b"GET /board HTTP/1.1", b"GET /hello HTTP/1.1", b"PUT /jobs HTTP/1.0", b"POST / HTTP/9.9",
                         b"GET", b"GET /board",
                         b"Edgelaunch-Nonce: " + b"0" * 32, b"Edgelaunch-Signature: " + b"f" * 64,
                         b"Content-Length: 99999999",
                         b"Edgelaunch-Time: 1", b"Edgelaunch-Body: " + b"0" * 64, b"Edgelaunch-Challenge: \xff", b"",
                         b"Transfer-Encoding: chunked", b"Expect: 100-continue", b": ", b"\0",
                         LONG])  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES | st.binary(max_size=80), max_size=12), st.binary(max_size=200))
def test_whatever_strangers_send_is_refused(lasting: Served, lines: list[bytes], rest: bytes) -> None:
    sent = [line.replace(LONG, b"A" * 70_000) for line in lines]
    assert refused(lasting.raw(b"\r\n".join(sent) + b"\r\n\r\n" + rest))
    assert lasting.agent._job is None


def test_after_that_it_still_answers_and_kept_nothing(lasting: Served) -> None:
    assert lasting.client().board()["name"] == "pi"
    assert files_of(lasting.folder) == set()


def test_a_stranger_who_says_nothing_is_hung_up_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_server, "HEAD_S", 0.2)
    with socket.create_connection((served.address.host, served.address.port), 20.0) as channel:
        channel.sendall(b"GET /board HTTP/1.1\r\n")
        assert channel.recv(100) in (b"", b"HTTP/1.1 408")


def test_strangers_do_not_use_up_the_connections(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.server, "_free", threading.BoundedSemaphore(2))
    held = [socket.create_connection((served.address.host, served.address.port), 20.0) for _ in range(2)]
    for channel in held:
        channel.sendall(b"GET ")
    deadline = time.monotonic() + 20.0
    while served.server._free._value:  # to try one would take it from those who are held
        time.sleep(0.01)
        assert time.monotonic() < deadline
    with pytest.raises(NoAgentError):
        served.client().board()
    for channel in held:
        channel.close()
    while True:
        try:
            assert served.client().board()["name"] == "pi"
            return
        except NoAgentError:
            assert time.monotonic() < deadline


def test_the_greeting_is_for_who_challenges(served: Served) -> None:
    connection = http.client.HTTPConnection(served.address.host, served.address.port, timeout=20.0)
    connection.request("GET", "/hello", headers={CHALLENGE: "0" * 31})
    assert connection.getresponse().status == 400
    connection.close()


def test_two_agents_cannot_listen_at_one_port(served: Served) -> None:
    with pytest.raises(UserError, match="nothing can listen at"):
        AgentServer(served.address, served.agent)
    assert os.listdir(served.folder / "jobs") == []
