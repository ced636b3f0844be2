"""Names that say of themselves that a file is not data, or not complete."""

from __future__ import annotations

import pytest

from cli.inbox.unfinished_names import is_unfinished

UNFINISHED = """
.hidden.jsonl a.jsonl.tmp a.part a.jsonl~ a.crdownload a.jsonl.filepart a.jsonl.download a.jsonl.partial A.PART
Thumbs.db desktop.ini .DS_Store ._a.jsonl .syncthing.a.jsonl.tmp ~syncthing~a.jsonl.tmp .a.jsonl.Ab3dE9
._sync_1a2b.a.jsonl ~$notes.xlsx a.jsonl.aria2 a.jsonl.lftp-pget-status a.jsonl.swp a.jsonl.goutputstream-X1Y2Z3
a.jsonl.a1b2c3d4.partial a.jsonl.part-Frag3 a.jsonl.opdownload a.jsonl.!qB .~lock.a.csv# .nfs000012 #a.jsonl#
"""

DATA = "a.jsonl notes.txt download.jsonl partial a.part.jsonl tmp a~b.jsonl a.csv c++.md 2024.05 #1.jsonl a.tar.gz"


@pytest.mark.parametrize("name", UNFINISHED.split())
def test_names_of_browsers_sync_tools_and_editors_are_ignored(name: str) -> None:
    """Whatever is in them."""
    assert is_unfinished(name)


@pytest.mark.parametrize("name", DATA.split())
def test_a_name_that_only_looks_similar_is_data(name: str) -> None:
    """Nothing a person drops may be ignored in silence."""
    assert not is_unfinished(name)
