"""Handles signals: Ctrl-C ends the whole run, SIGTERM and SIGHUP only this process if others can continue."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

__all__ = ["ToldToStop", "hear_signals"]


class ToldToStop(KeyboardInterrupt):
    """This process was told to stop by a signal other than Ctrl-C's: its machine goes down, or its service is stopped.

    What ends everything on a KeyboardInterrupt does so on this one too.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name


AGAIN_S = 0.02
"""After so long a signal that was forgotten is sent again."""


def hear_signals() -> None:
    """In the main thread of a command."""
    sys.unraisablehook = _Again(sys.unraisablehook)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)


class _Again:
    """A signal may come while a weak reference or an object that goes calls back: Python prints and forgets whatever is
    raised there. So the signal is sent again."""

    def __init__(self, otherwise: Callable[[sys.UnraisableHookArgs], object]) -> None:
        self._otherwise = otherwise

    def __call__(self, what: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            self._otherwise(what)
            return
        number = what.exc_value.args[0] if isinstance(what.exc_value, ToldToStop) else signal.SIGINT
        timer = threading.Timer(AGAIN_S, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def _stop(signum: int, frame: object) -> None:
    raise ToldToStop(signum)
