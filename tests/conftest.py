"""What all tests stand on."""

from __future__ import annotations

import signal

# a shell's background jobs ignore SIGINT, and so would every command that a test starts and interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
