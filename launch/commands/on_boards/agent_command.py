"""`edgelaunch agent`: runs on a board from its start on. Imports no torch: ranks are processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

from edgecompile.contract.errors import UserError
from edgelaunch.boards.agent.agent_server import AgentServer
from edgelaunch.boards.agent.board_agent import BoardAgent
from edgelaunch.boards.agent.plan_folders import PlanFolders, default_folder
from edgelaunch.boards.agent.stdio_rank import serve_stdio
from edgelaunch.boards.board_client import BoardClient
from edgelaunch.boards.discovery import announcing, check_zeroconf
from edgelaunch.common.addresses import Address
from edgelaunch.common.secret import stated_secret
from edgelaunch.process.stderr import say
from edgelaunch.process.stopping import ToldToStop
from edgelaunch.request.boards_request import AgentRequest

__all__ = ["run_agent"]

AGAIN_S = 10.0
"""It tells the boards that it joined so often that it is here."""


def run_agent(request: AgentRequest) -> int:
    """Until it is told to stop; a rank that runs then leaves. Raises UserError where it cannot work."""
    folder = (request.folder if request.folder is not None else default_folder()).absolute()
    if request.stdio:
        return serve_stdio(PlanFolders(folder))
    secret = stated_secret(request.secret_file, os.environ)
    if not request.no_mdns:
        check_zeroconf("start it with --no-mdns, and --join the agent of another board if there is one")
    name = request.name or socket.gethostname().partition(".")[0] or "board"
    secret_file = request.secret_file.resolve() if request.secret_file is not None else None

    def tell(text: str) -> None:
        if not request.quiet:
            say(text, about="edgelaunch agent", event="agent")

    agent = BoardAgent(name, secret, secret_file, folder, tell)
    with AgentServer(Address(request.address, request.port), agent) as server, contextlib.ExitStack() as stack:
        thread = threading.Thread(target=server.serve_forever, name="server", daemon=True)
        if not request.no_mdns:
            stack.enter_context(announcing(name, request.port))
        thread.start()
        tell(f"{name} is ready at {request.address}:{request.port}, with {folder}")
        try:
            _join(request, secret, tell)
        except ToldToStop:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return 143
        finally:
            server.shutdown()
            agent.end()


def _join(request: AgentRequest, secret: bytes, tell: Callable[[str], None]) -> NoReturn:
    """Tells other boards that this one is here, for ever; a line where one does not answer, or does again."""
    clients = [BoardClient(address, secret) for address in request.join]
    problems: dict[Address, str] = {}
    while True:
        for client in clients:
            try:
                client.join(request.port)
            except UserError as error:
                if problems.get(client.address) != str(error):
                    tell(f"cannot join: {error}")
                problems[client.address] = str(error)
                continue
            if problems.pop(client.address, None) is not None:
                tell(f"joined {client.address}")
        threading.Event().wait(AGAIN_S)
