"""The state of the home after Ctrl-C ended a command."""

from __future__ import annotations

from collections.abc import Sequence

UNCHANGED = "nothing was changed"

ATOMIC = "nothing is half-done: `keepstep status` shows whether it took effect"
"""For commands that journal one change, which is there or not."""

NOT_MADE = "the new directory was not made"

LEFT = {
    "init": "a directory without a keepstep.toml is no home yet; run it again",
    "add": "the files that were reported are in the queue, and no other one",
    "run": "committed steps are kept: `keepstep run` continues",
    "demo": "what was trained is kept in the demo's home",
    "doctor": "each fix that was reported is complete",
    "checkout": NOT_MADE,
    "versions export": NOT_MADE,
    "versions push": "the repository shows all files of the version or none; run it again to continue",
    "checkpoints export": NOT_MADE,
    "backup create": "no half-made backup is used: `keepstep backup` lists the complete ones",
    "report rebuild": "the daemon completes it; without a daemon run it again",
    "home move": "the home is complete in one of the two places; a `.moving-…` or `.moved-…` next to it can be deleted",
    **dict.fromkeys(("pause", "resume", "stop", "skip", "retry", "consolidate"), ATOMIC),
    **dict.fromkeys(("queue move", "queue hold", "queue release", "queue remove"), ATOMIC),
    **dict.fromkeys(("versions restore", "versions rollback", "versions delete", "versions promote"), ATOMIC),
    **dict.fromkeys(("backup restore", "backup cleanup", "checkpoints prune"), ATOMIC),
    **dict.fromkeys(("versions discard", "versions evaluate", "samples now"), ATOMIC),
    **dict.fromkeys(("journal replay", "journal repair"), "run it again to finish"),
    **dict.fromkeys(("config set", "config unset", "config edit"), "keepstep.toml has all of the change or none of it"),
    **dict.fromkeys(("service install", "service uninstall"), "`keepstep service status` shows what is installed"),
}
"""A sentence for each command. A command that is not here changes nothing."""


def cancelled_text(arguments: Sequence[str]) -> str:
    """The sentence for the command of these arguments.

    >>> cancelled_text(["queue", "--home", "h", "hold", "x"]) == ATOMIC
    True
    >>> cancelled_text(["status"])
    'nothing was changed'
    """
    words = [each for each in arguments if not each.startswith("-")]
    two = next((f"{words[0]} {each}" for each in words[1:4] if f"{words[0]} {each}" in LEFT), None)
    one = words[0] if words else ""
    return LEFT.get(two or one, UNCHANGED)
