"""`keepstep queue`: what it shows, and what its commands say and refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import file_sha256
from core import commands
from tests.cli.test_commands import keepstep


@pytest.fixture
def queued(home: Home, tmp_path: Path) -> Home:
    """a and b wait, c in the lane for what is urgent; no daemon runs."""
    for name, priority in (("a", "normal"), ("b", "normal"), ("c", "high")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(f"ok {name}\n", encoding="utf-8")
        assert keepstep("add", str(path), "--priority", priority, home=home).returncode == 0
    return home


def order(home: Home) -> list[tuple[int, str, str]]:
    rows = json.loads(keepstep("queue", "--json", home=home).stdout)
    return [(row["position"], row["name"].removesuffix(".jsonl"), row["status"]) for row in rows]


def test_what_waits_is_shown_in_order(queued: Home) -> None:
    """With its place; a held job says so."""
    assert keepstep("queue", "hold", "a.jsonl", home=queued).returncode == 0
    assert order(queued) == [(1, "c", "queued"), (2, "a", "held"), (3, "b", "queued")]
    lines = keepstep("queue", home=queued).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
    assert "held" in lines[2]
    status = keepstep("status", home=queued).stdout
    assert "3 waiting (1 high, 2 normal): c.jsonl, b.jsonl; 1 held" in status


@pytest.mark.parametrize(
    ("arguments", "said", "expected"),
    [
        (["move", "b.jsonl", "--first"], "b.jsonl is now before a.jsonl, priority normal", "cba"),
        (["move", "b.jsonl", "--before", "c.jsonl"], "b.jsonl is now before c.jsonl, priority high", "bca"),
        (["move", "c.jsonl", "--priority", "low"], "c.jsonl is now last of priority low", "abc"),
        (["move", "a.jsonl", "--priority", "high", "--first"], "a.jsonl is now before c.jsonl, priority high", "acb"),
    ],
)
def test_a_job_is_moved_and_its_new_place_printed(arguments: list[str], said: str, expected: str, queued: Home) -> None:
    """By name; durable when it returns."""
    done = keepstep("queue", *arguments, home=queued)
    assert (done.returncode, done.stdout) == (0, f"{said}\n")
    assert "".join(name for _, name, _ in order(queued)) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hold", "nope"], 1, "there is no unfinished job nope"),
        (["release", "a.jsonl"], 1, "a.jsonl is not held"),
        (["move", "a.jsonl", "--first"], 1, "already stands there"),
        (["move", "a.jsonl", "--priority", "normal"], 1, "already has priority normal"),
        (["move", "a.jsonl", "--before", "nope"], 1, "there is no unfinished job nope"),
        (["move", "a.jsonl"], 2, "name the new place"),
        (["move", "a.jsonl", "--first", "--before", "b.jsonl"], 2, "exclude each other"),
        (["move", "a.jsonl", "--priority", "urgent"], 2, "'urgent' is not one of 'high'"),
        (["remove"], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], code: int, message: str, queued: Home) -> None:
    """1 with the reason, 2 for a wrong command line; nothing is journaled."""
    before = order(queued)
    done = keepstep("queue", *arguments, home=queued)
    assert done.returncode == code
    assert message in re.sub(r"[\s│]+", " ", done.stderr)
    assert "Traceback" not in done.stderr
    assert order(queued) == before


def test_a_job_that_is_taken_out_can_be_dropped_in_again(queued: Home, drop: Callable[..., Path]) -> None:
    """Its file is in rejected/ next to a report that says why, and keepstep does not know its bytes any more."""
    data = (queued.root.parent / "a.jsonl").read_bytes()
    job = file_sha256(queued.root.parent / "a.jsonl")
    done = keepstep("queue", "remove", job[:8], home=queued)
    assert done.stdout == "a.jsonl is out of the queue; its file is rejected/a.jsonl\n"
    assert (queued.rejected / "a.jsonl").read_bytes() == data
    report = json.loads((queued.rejected / "a.jsonl.report.json").read_bytes())
    assert report["problem"] == "removed"
    assert "dropped in again" in report["message"]
    assert not queued.data_file(job).exists()
    assert [name for _, name, _ in order(queued)] == ["c", "b"]
    again = keepstep("add", str(queued.rejected / "a.jsonl"), home=queued)
    assert again.stdout.startswith("a.jsonl is queued (3 waiting)")


def test_nothing_but_held_jobs_left_is_said_at_the_end(queued: Home, run: Callable[..., list[str]], home: Home) -> None:
    """`run --until-idle` ends, and names the jobs that are held, and how to release them."""
    for name in ("a.jsonl", "b.jsonl"):
        keepstep("queue", "hold", name, home=queued)
    said = run()
    assert any("2 jobs are held and not trained; see `keepstep queue`" in line for line in said)
    assert [name for _, name, _ in order(home)] == ["a", "b"]
    assert keepstep("queue", "--home", str(home.root), "release", "a.jsonl").returncode == 0
    said = run()
    assert any("a.jsonl: trained" in line for line in said)
    assert any("1 job is held" in line for line in said)


def test_add_retrain_trains_known_bytes_again(
    home: Home, drop: Callable[..., Path], run: Callable[..., list[str]], tmp_path: Path
) -> None:
    """`add --retrain`; known bytes are refused without it, and while their job is unfinished."""
    path = tmp_path / "b.jsonl"
    path.write_text("ok\nok\n", encoding="utf-8")
    drop("a.jsonl", "ok ok")
    run()
    known = keepstep("add", str(path), home=home)
    assert f"b.jsonl was accepted before (job {file_sha256(path)[:12]}) and is not trained again" in known.stdout
    assert "b.jsonl is queued (1 waiting)" in keepstep("add", "--retrain", str(path), home=home).stdout
    (tmp_path / "c.jsonl").write_text("ok\nok\n", encoding="utf-8")
    first = keepstep("add", str(tmp_path / "c.jsonl"), home=home)
    assert "c.jsonl is identical to b.jsonl, which was in progress" in first.stdout
    refused = keepstep("add", "--again", str(tmp_path / "c.jsonl"), home=home)
    assert refused.returncode == 1
    assert "--again is now --retrain" in refused.stderr
    assert "c.jsonl is identical to b.jsonl, which is in progress" in refused.stderr
    run()
    status = json.loads(keepstep("status", "--json", home=home).stdout)
    assert (status["global_step"], status["counts"]["trained"]) == (4, 2)
    assert not list((home.data / ".arriving").iterdir())


def test_a_long_queue_is_shown_in_part(home: Home) -> None:
    """The first fifty, and how many more; a script gets all."""
    with closing(EventStore.open(home)) as store:
        for number in range(60):
            store.execute(
                commands.AddFile(
                    job=f"{number:064x}", name=f"{number}.jsonl", size_bytes=1, priority="normal", known=False
                )
            )
    lines = keepstep("queue", home=home).stdout.splitlines()
    assert len(lines) == 52
    assert lines[-1] == "and 10 more; `keepstep queue --all` lists them"
    assert len(keepstep("queue", "--all", home=home).stdout.splitlines()) == 61
    assert len(json.loads(keepstep("queue", "--json", home=home).stdout)) == 60


def test_no_name_acts_on_a_terminal(home: Home, tmp_path: Path) -> None:
    """A line feed, an escape, a text that runs backwards: written out wherever the name is shown."""
    path = tmp_path / "a\nkeepstep: all is well\x1b[31m\u202e.jsonl"
    path.write_text("ok\n", encoding="utf-8")
    added = keepstep("add", str(path), home=home)
    shown = "a\\nkeepstep: all is well\\x1b[31m\\u202e.jsonl"
    outputs = [added.stdout, keepstep("queue", home=home).stdout, keepstep("status", home=home).stdout]
    outputs.append(keepstep("queue", "release", shown, home=home).stderr)
    outputs.append(keepstep("queue", "hold", shown, home=home).stdout)
    for output in outputs:
        assert shown in output
        assert output.replace("\n", "").isprintable()
