"""Files that are dropped on the page."""

from __future__ import annotations

import os
import re
from contextlib import closing
from typing import Any

import pytest
from starlette.testclient import TestClient

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.monitor import uploads as uploads_module
from cli.monitor.uploads import Uploads

GOOD = b'{"text": "one two"}\n'


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself is tested where it is; here it would load a tokenizer each time."""
    monkeypatch.setattr(Uploads, "check", lambda self, upload: {"file": self._path(upload).name, "verdict": "good"})


def upload(client: TestClient, name: str, content: bytes = GOOD) -> Any:
    answer = client.post("/api/uploads", params={"name": name}, content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_upload_waits_until_the_user_queues_it(home: Home, owner: TestClient) -> None:
    said = upload(owner, "new.jsonl")
    assert said["report"]["file"] == "new.jsonl"
    answer = owner.post(f"/api/uploads/{said['id']}", json={"priority": "high"})
    assert answer.json()["done"].startswith("new.jsonl is queued")
    with closing(EventStore.open(home)) as store:
        assert next(iter(store.state.queue)).name == "new.jsonl"
    assert list((home.run / "uploads").iterdir()) == []


def test_a_discarded_upload_leaves_nothing(home: Home, owner: TestClient) -> None:
    said = upload(owner, "new.jsonl")
    assert owner.delete(f"/api/uploads/{said['id']}").status_code == 200
    assert list((home.run / "uploads").iterdir()) == []
    assert owner.post(f"/api/uploads/{said['id']}").status_code == 409


@pytest.mark.parametrize(
    "name", ["../../evil.jsonl", "/etc/passwd", ".hidden", "a/b.jsonl", "<script>.jsonl", "x" * 500]
)
def test_a_name_leads_nowhere_else(home: Home, owner: TestClient, name: str) -> None:
    said = upload(owner, name)
    (path,) = (home.run / "uploads" / said["id"]).iterdir()
    assert path.read_bytes() == GOOD


@pytest.mark.parametrize("upload_id", ["..", "0", "../../data", "0123456789abcdef"])
def test_an_unknown_upload_is_refused(owner: TestClient, upload_id: str) -> None:
    assert owner.post(f"/api/uploads/{upload_id}").status_code in {404, 405, 409}


def test_an_upload_without_a_name_is_refused(owner: TestClient) -> None:
    assert owner.post("/api/uploads", content=GOOD).status_code == 409


def test_an_upload_leaves_the_space_that_training_needs(
    home: Home, owner: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Uploads, "_reserved_bytes", lambda _: 10**15)
    answer = owner.post("/api/uploads", params={"name": "new.jsonl"}, content=GOOD)
    assert answer.status_code == 409
    assert "does not fit" in answer.json()["error"]
    assert list((home.run / "uploads").iterdir()) == []


def test_a_duplicate_is_named(owner: TestClient) -> None:
    for expected in ("is queued", "is identical"):
        said = upload(owner, "new.jsonl")
        assert expected in owner.post(f"/api/uploads/{said['id']}").json()["done"]


def test_old_uploads_are_deleted_at_the_next_start(home: Home, owner: TestClient) -> None:
    old, new = upload(owner, "old.jsonl")["id"], upload(owner, "new.jsonl")["id"]
    os.utime(home.run / "uploads" / old, (1.0, 1.0))
    Uploads(home).clean()
    assert [path.name for path in (home.run / "uploads").iterdir()] == [new]
    assert uploads_module.KEPT_S >= 3600


@pytest.mark.parametrize("limit", ['"auto"', "0.001"])
def test_the_reserve_follows_the_limits_of_the_disk(home: Home, owner: TestClient, limit: str) -> None:
    """Those of a new home are "auto"."""
    text = home.config.read_text(encoding="utf-8")
    home.config.write_text(re.sub(r"^(soft|hard)_gb = [^ ]*", rf"\1_gb = {limit}", text, flags=re.MULTILINE))
    free = home.storage.free_bytes(home.root)
    assert 0 < Uploads(home)._reserved_bytes() < free
    assert upload(owner, "new.jsonl")["id"]
