"""Handles signals: Ctrl-C ends the whole run, SIGTERM and SIGHUP only this process if others can continue."""

from __future__ import annotations

import signal

__all__ = ["ToldToStop", "hear_signals"]


class ToldToStop(KeyboardInterrupt):
    """This process was told to stop by a signal other than Ctrl-C's: its machine goes down, or its service is stopped.

    What ends everything on a KeyboardInterrupt does so on this one too.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name


def hear_signals() -> None:
    """In the main thread of a command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)


def _stop(signum: int, frame: object) -> None:
    raise ToldToStop(signum)
