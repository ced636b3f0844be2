"""Edit a copy of keepstep.toml with an editor, check it, and put it in place."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from cli.config.edit import Changed, read_text, replace_text
from cli.errors import UserError
from cli.home.paths import CONFIG_MODE, Home
from journal import durable
from journal.durable import read_file

EDITED = "keepstep.edited.toml"
"""In the home: the text of `config edit` that could not be put in place."""


def edit(home: Home, run_editor: Callable[[Path], None], again: Callable[[UserError], bool]) -> Changed:
    """Let the user edit a copy of keepstep.toml, check it and put it in place.

    `again`: show what is wrong, and ask whether to edit it again. If not, the text is kept in EDITED, and the next edit
    continues with it. Raises UserError, OSError.
    """
    copy = home.root / EDITED
    before = read_text(home)
    if copy.exists() and copy.stat().st_mtime_ns < home.config.stat().st_mtime_ns:
        raise UserError(
            f"{copy} has an edit that was not put in place, and keepstep.toml was changed after it",
            f"compare them (`diff {shlex.quote(str(home.config))} {shlex.quote(str(copy))}`), and delete {copy}",
        )
    if not copy.exists():
        with durable.opened(home.storage, copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, CONFIG_MODE) as fd:
            durable.write_all(home.storage, fd, before.encode())
    while True:
        try:
            run_editor(copy)
        except UserError:
            if read_file(copy) == before.encode():
                copy.unlink()  # there is nothing to continue with
            raise
        try:
            try:
                after = read_file(copy).decode()
            except UnicodeDecodeError as error:
                raise UserError(f"the edited text is not UTF-8: {error}", "save it in UTF-8") from error
            changed = replace_text(home, before, after)
        except UserError as error:
            if again(error):
                continue
            raise UserError(
                "keepstep.toml was not changed",
                f"the edited text is kept in {copy}: `keepstep config edit` continues with it. To drop it, delete that "
                "file",
            ) from error
        copy.unlink()
        return changed
