"""The web application: views, stream, actions, and who may use them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from cli.home.paths import Home
from cli.monitor import app as app_module
from projections.machine import MachineView, MemoryView
from projections.machine_samples import append_sample, sample_of

BASE = "http://127.0.0.1:8080"


def get(client: TestClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/", "/app.js", "/style.css", "/uPlot.iife.min.js", "/api/status", "/nothing"])
def test_each_answer_forbids_other_sources(owner: TestClient, path: str) -> None:
    policy = owner.get(path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_page_asks_nothing_of_other_machines(anyone: TestClient) -> None:
    for name in ("", "app.js", "common.js", "evaluation.js", "machine.js", "models.js", "samples.js", "style.css"):
        assert "//" not in anyone.get(f"/{name}").text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")


def test_the_views_show_the_home(owner: TestClient) -> None:
    status = get(owner, "/api/status")
    assert (status["home"], status["global_step"], status["alive"]) == ("home", 46, False)
    assert get(owner, "/api/metrics?from=10&to=12")["steps"] == [10, 11, 12]
    assert [job["name"] for job in get(owner, "/api/queue")["jobs"]][:2] == ["in-progress.jsonl", "waiting.jsonl"]
    assert {version["id"] for version in get(owner, "/api/models")["versions"]} == {"v001", "v002"}
    assert get(owner, "/api/failures")[-1]["advice"]
    assert get(owner, "/api/lineage")["parts"]
    assert len(get(owner, "/api/journal?number=3")) == 3
    assert get(owner, "/api/memory_stats")["memory"]["total_bytes"] > 0


def test_evaluations_are_shown_with_the_verdict_of_each_version(owner: TestClient, home: Home) -> None:
    """Older homes have none: each version is then not evaluated."""
    shown = get(owner, "/api/evaluation")
    assert (shown["rows"], shown["versions"]) == ([], [])
    assert shown["verdicts"] == {"v001": "", "v002": ""}
    assert get(owner, "/api/difference?from=v001&to=v002")["questions"]["problem"].startswith("v001 was not evaluated")


@pytest.mark.parametrize("query", ["from=x", "points=1.5", "to=ten"])
def test_a_wrong_number_is_named(owner: TestClient, query: str) -> None:
    answer = owner.get(f"/api/metrics?{query}")
    assert answer.status_code == 409
    assert "is not a whole number" in answer.json()["error"]


def test_the_stream_continues_after_the_id_that_was_seen(owner: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = records(owner, monkeypatch, {"Last-Event-ID": "450"}, "/api/stream?after=3")
    assert [record["seq"] for record in first] == [451, 452, 453]
    assert [record["seq"] for record in records(owner, monkeypatch, {}, "/api/stream?after=452")] == [453]


def records(client: TestClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], path: str) -> list[Any]:
    """The records of a stream that ends after its first look at the status."""

    def ended(_: Home) -> None:
        raise StreamEndedError

    monkeypatch.setattr(app_module, "status_report", ended)
    found = []
    try:
        with client.stream("GET", path, headers=headers) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ["):
                    found += msgspec.json.decode(line.removeprefix("data: "))
    except (ExceptionGroup, StreamEndedError):
        pass
    return found


class StreamEndedError(Exception):
    """Ends a stream in a test."""


def test_a_stream_of_a_journal_that_was_repaired_says_reload(owner: TestClient) -> None:
    with owner.stream("GET", "/api/stream?after=9999") as answer:
        assert "event: reload" in "\n".join(answer.iter_lines())


def test_two_versions_differ_in_what_they_were_trained_on(owner: TestClient) -> None:
    found = get(owner, "/api/difference?from=origin&to=v002")
    assert [each["version"] for each in found["only"]] == ["origin", "v002"]
    assert found["only"][0]["parts"] == []
    assert found["only"][1]["parts"][0]["file"]
    assert owner.get("/api/difference?from=v001&to=v099").status_code == 409


def test_the_machine_is_shown_over_time(owner: TestClient, home: Home) -> None:
    assert get(owner, "/api/machine")["samples"]["at"] == []
    for at in range(5):
        memory = MemoryView(total_bytes=10, available_bytes=4, worker_bytes=3)
        view = MachineView(
            at=float(at),
            cores=2,
            cpu=0.5,
            memory=memory,
            disk_free_bytes=7,
            read_bytes_per_s=None,
            written_bytes_per_s=None,
        )
        append_sample(home.machine_samples, sample_of(view))
    found = get(owner, "/api/machine?points=2")
    assert found["samples"]["at"] == [1.0, 4.0]
    assert found["samples"]["memory_used_bytes"] == [6, 6]
    assert found["monitor"]["memory_bytes"] > 0


def test_the_samples_are_those_of_the_command(owner: TestClient) -> None:
    """The home of the test has none; a wrong step is named; a home in which nothing trains refuses a request."""
    assert get(owner, "/api/samples")["rounds"] == []
    assert "is not a whole number" in owner.get("/api/samples?step=x").json()["error"]
    assert "nothing trains now" in owner.post("/api/actions/sample", json={}).json()["error"]


def test_each_file_of_the_page_is_served(anyone: TestClient) -> None:
    assert "makeSamples" in anyone.get("/samples.js").text
