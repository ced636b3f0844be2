"""`keepstep versions push`: upload a version to the Hugging Face hub.

The upload is one commit of the repository: before it, nobody sees a file of it. What was uploaded before an
interruption is on the hub already, and the next push does not send it again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from cli.commands.common import count, format_size, read_state
from cli.commands.exports.card import evaluations_of, make_card
from cli.commands.lineage import read_lineage
from cli.commands.versions import find_version
from cli.errors import UserError
from cli.home.paths import Home
from cli.output.terminal import Row, print_json, print_report, say
from gpu.artifacts.artifact import find_problem
from gpu.artifacts.version_manifest import TRAINED, VersionDirectory
from gpu.model.hub import is_id, is_offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"

STALE = ("model*.safetensors", "model*.safetensors.index.json")
"""Weights of an earlier version in the repository. Next to new ones with other names, they would be loaded."""

CONFIGS, PLACES = ("config.json", "tokenizer_config.json"), ("_name_or_path", "name_or_path")
"""Files in which older versions of transformers record where they read the model, and the keys."""

CONTINUE = "what was uploaded is kept there but not visible; run the same command again to continue"


class Upload(NamedTuple):
    """What is sent."""

    files: Mapping[str, Path | bytes]
    """By name in the repository."""
    card: str
    size_bytes: int


def push_version(home: Home, name: str, repo: str, *, public: bool, with_names: bool, yes: bool, json: bool) -> None:
    """Upload a version, private unless `public`. Raises UserError."""
    if json or not sys.stderr.isatty():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when the library is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, get_token

    _refuse_bad_name(repo)
    find_version(read_state(home), name)  # a name that is wrong is said first
    if is_offline():
        raise UserError("HF_HUB_OFFLINE is set, so the hub is not asked; nothing was sent", "unset it, then try again")
    if get_token() is None:
        raise UserError("there is no token for the hub; nothing was sent", "`hf auth login`, or set HF_TOKEN")
    upload = prepare_upload(home, name, with_names=with_names)
    api = HfApi()
    with _explained("nothing was sent"):
        owner = api.whoami()["name"]
    full = repo if "/" in repo else f"{owner}/{repo}"
    if not json:
        _show(upload, full, api.endpoint, public=public, with_names=with_names)
    _ask(full, yes=yes)
    with _explained("no model was sent"):
        _make_repository(api, full, public=public)
    with _explained(CONTINUE):
        commit, sent = _send(api, full, upload, name)
    url = f"{api.endpoint}/{full}"
    if json:
        print_json(
            {
                "url": url,
                "commit": commit,
                "private": not public,
                "files": sorted([*upload.files, CARD]),
                "size_bytes": upload.size_bytes,
                "changed": sent,
            }
        )
    elif sent:
        say(f"{url}  (commit {commit[:12]})")
    else:
        say(f"{url} has this version already; nothing was changed")


def prepare_upload(home: Home, name: str, *, with_names: bool) -> Upload:
    """Verify every byte of the version, and write its card. Raises UserError."""
    version = find_version(read_state(home), name)
    artifact = VersionDirectory(home.versions / version.id, home.storage)
    problem = find_problem(artifact, version.manifest_sha256, every_byte=True)
    if problem is not None:
        raise UserError(f"{version.id} is damaged: {problem}; nothing was sent", "restore its files from a copy")
    manifest = artifact.read(version.manifest_sha256)
    parts = read_lineage(home, version.id).parts
    card = make_card(home, version, manifest, parts, evaluations_of(home, version.id), with_names=with_names)
    # `keepstep.json` has paths and names of data files, the directory `TRAINED` weights that only keepstep reads.
    kept = [each for each in manifest.files if each != CARD and not each.startswith(f"{TRAINED}/")]
    size_bytes = sum(manifest.files[each].size_bytes for each in kept)
    files = {each: _without_paths(artifact.path / each) for each in kept}
    return Upload(files, card, size_bytes)


def _without_paths(path: Path) -> Path | bytes:
    """A file to upload; its bytes without the place where it was read, if it is a config that records a local one."""
    if path.name not in CONFIGS:
        return path
    config = loads(path.read_bytes())
    local = [key for key in PLACES if str(config.get(key) or "").startswith(("/", "~", "."))]
    return dumps({**config, **dict.fromkeys(local, "")}, indent=2, ensure_ascii=False).encode() if local else path


def _refuse_bad_name(repo: str) -> None:
    """Raise UserError for a name that the hub does not take, before anything is sent."""
    if not is_id(repo) or repo.endswith(".git"):
        raise UserError(
            f"{repo!r} is no name of a repository; nothing was sent",
            "write NAME or OWNER/NAME, with letters, digits, `-`, `_` and `.`, at most 96 characters",
        )


def _show(upload: Upload, repo: str, endpoint: str, *, public: bool, with_names: bool) -> None:
    names = "with the names of the data files" if with_names else "without names of data files and paths"
    print_report(
        [
            Row("to", f"{endpoint}/{repo} ({'PUBLIC' if public else 'private'})"),
            Row("model", f"{count(len(upload.files), 'file')}, {format_size(upload.size_bytes)}"),
            Row("", ", ".join(sorted(upload.files))),
            Row("card", f"{CARD}: description, lineage (SHA-256, rows, steps), evaluation, settings; {names}"),
            Row("stays here", f"keepstep.json, {TRAINED}/, data, journal"),
        ]
    )


def _ask(repo: str, *, yes: bool) -> None:
    """Let the user confirm. Raises UserError if nobody can or if the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody can confirm the upload here; nothing was sent", "add --yes")
    if not typer.confirm(f"Upload to {repo}?"):
        raise UserError("nothing was sent")


def _make_repository(api: HfApi, repo: str, *, public: bool) -> None:
    """Create the repository, unless it exists with this visibility. Raises UserError."""
    api.create_repo(repo, private=not public, exist_ok=True)
    private = bool(api.model_info(repo).private)
    if private == public:
        has, wanted = ("private", "public") if private else ("public", "private")
        advice = "without --public it stays private" if private else "add --public, or name another repository"
        raise UserError(f"{repo} exists and is {has}, not {wanted}; no model was sent", advice)


def _send(api: HfApi, repo: str, upload: Upload, name: str) -> tuple[str, bool]:
    """Upload everything as one commit: (its SHA, whether anything changed)."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = api.list_repo_files(repo)
    before = api.model_info(repo).sha
    stale = [
        each for each in there if each not in upload.files and any(fnmatchcase(each, pattern) for pattern in STALE)
    ]
    operations: list[Any] = [
        CommitOperationAdd(each, content if isinstance(content, bytes) else str(content))
        for each, content in sorted(upload.files.items())
    ]
    operations.append(CommitOperationAdd(CARD, upload.card.encode()))
    operations += [CommitOperationDelete(each) for each in stale]
    made = api.create_commit(repo, operations, commit_message=f"keepstep: {name}")
    return made.oid, made.oid != before


@contextmanager
def _explained(state: str) -> Iterator[None]:
    """Raise UserError for any error of the hub and its library. `state`: what was sent so far."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except UserError:
        raise
    except RepositoryNotFoundError as error:
        raise UserError(
            f"the hub has no such repository, or this token may not write there; {state}",
            "`hf auth whoami` shows whose token it is; a repository of an organisation is OWNER/NAME",
        ) from error
    except HfHubHTTPError as error:
        raise UserError(f"the hub refused: {_reason(error)}; {state}", _advice(error)) from error
    except Exception as error:  # the HTTP library and its errors depend on the version, as in gpu.model.hub
        if isinstance(error, MemoryError):
            raise
        raise UserError(
            f"the hub cannot be reached: {_one_line(error)}; {state}", "check the network, then try again"
        ) from error


def _reason(error: Any) -> str:
    """What the hub says, without the address and the request's id."""
    said = getattr(error, "server_message", None) or str(error).splitlines()[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"{' '.join(str(said).split())}" + (f" ({status})" if status is not None else "")


def _advice(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return "make a token that may write at https://huggingface.co/settings/tokens, then `hf auth login`"
    return "try again later"


def _one_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the library wraps the reason
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
