"""The one kind of error that is the user's to mend; every command turns it into one line and exit status 2."""

from __future__ import annotations

__all__ = ["UserError", "choices"]


class UserError(ValueError):
    """A config, file or cluster the user can mend: says what, where, why and what to do.

    Anything else that is raised is a bug of this project and keeps its traceback.
    """


def choices(names: object) -> str:
    """The allowed names, sorted, for the end of a message."""
    return ", ".join(sorted(str(name) for name in names))  # type: ignore[attr-defined]
