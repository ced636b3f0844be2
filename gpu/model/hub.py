"""Models on the Hugging Face hub: resolve names to commits, find them in the cache, and download them. No torch.

The layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache. A snapshot is the directory of
one commit and never changes. The owner of a model can move a branch or a tag to another commit, so a home names a
commit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gpu.errors import ModelUnusable

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAIN = "main"
HUB_TIMEOUT_S = 5.0
"""Longest wait for the hub: a user waits for `init`, and without an answer the cache is used."""

_ID = re.compile(r"(?!.*(--|\.\.))(\w[\w.-]*/)?\w[\w.-]{0,95}", re.ASCII)
"""As `huggingface_hub.utils.validate_repo_id` has it."""
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")

_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.spm", "*.tiktoken", "*.codes", "*.py")
"""The files that are downloaded apart from the weights."""


class CommitNotFound(Exception):
    """No commit was found for a revision of a hub id. Data: `is_wrong`, `reason`."""

    def __init__(self, reason: str, *, is_wrong: bool) -> None:
        self.reason = reason
        self.is_wrong = is_wrong
        """True if there is no such revision; False if the hub could not be reached."""
        super().__init__(reason)


class AccessRefused(ModelUnusable):
    """The hub shows the model, but gives its files only to those who have accepted its terms."""


def page_of(model: str) -> str:
    """Return the address of a model's page."""
    return f"https://huggingface.co/{model}"


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the cache directory of the hub's library."""
    parent = environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    place = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or f"{parent}/hub"
    return Path(os.path.expandvars(place)).expanduser()


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """True if the environment forbids requests to the hub."""
    wanted = environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or ""
    return wanted.upper() in {"1", "ON", "YES", "TRUE"}


def is_id(model: str) -> bool:
    """True if a text is written as a hub id."""
    return _ID.fullmatch(model) is not None


def resolve(model: str, revision: str = "") -> str:
    """Return the commit (40 hexadecimal digits) that `revision` of a hub id means now; "": its main branch.

    The hub is asked first. If it does not answer, or shows the model only with a token, the cache decides. Raises
    NoCommit.
    """
    revision = revision or MAIN
    if not is_id(model):
        raise CommitNotFound(f"{model!r} is not a hub id: one is written organisation/name", is_wrong=True)
    if not _REVISION.fullmatch(revision):
        raise CommitNotFound(f"{revision!r} is not a revision: one is a commit, a branch or a tag", is_wrong=True)
    if COMMIT.fullmatch(revision) and snapshot(model, revision) is not None:
        return revision
    refused = CommitNotFound("HF_HUB_OFFLINE is set", is_wrong=False)
    if not is_offline():
        try:
            return _ask_hub(model, revision)
        except CommitNotFound as error:
            refused = error
    found = cached_commit(model, revision)
    if found is None and COMMIT.fullmatch(revision) and not refused.is_wrong:
        return revision
    if found is None:
        raise CommitNotFound(f"{refused.reason}, and the cache has no {revision} of {model}", is_wrong=refused.is_wrong)
    return found


def _ask_hub(model: str, revision: str) -> str:
    """Return the hub's answer. Raises NoCommit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        sha = HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S).sha
    except RevisionNotFoundError as error:
        raise CommitNotFound(f"the hub has no {revision} of {model}", is_wrong=True) from error
    except RepositoryNotFoundError as error:
        reason = f"the hub has no {model}, or shows it only after `hf auth login`"
        raise CommitNotFound(reason, is_wrong=True) from error
    except Exception as error:  # the HTTP library and its errors depend on the version
        raise CommitNotFound(f"the hub cannot be reached ({_one_line(error)})", is_wrong=False) from error
    if sha is None or not COMMIT.fullmatch(sha):
        raise CommitNotFound(f"the hub names no commit for {revision} of {model}", is_wrong=False)
    return str(sha)


def weights_bytes(model: str, commit: str) -> int | None:
    """Return the size of a model's safetensors on the hub, bytes; None if the hub does not say it."""
    if is_offline():
        return None
    from huggingface_hub import HfApi

    try:
        files = HfApi().model_info(model, revision=commit, files_metadata=True, timeout=HUB_TIMEOUT_S).siblings or ()
    except Exception:  # noqa: BLE001 - as in `_ask_hub`; the size is only for an estimate
        return None
    sizes = {each.rfilename: each.size or 0 for each in files if fnmatchcase(each.rfilename, "*.safetensors")}
    shards = sum(size for name, size in sizes.items() if fnmatchcase(name, "model-*"))
    return sizes.get("model.safetensors") or shards or sum(size for name, size in sizes.items() if "/" not in name)


def cached_commit(model: str, revision: str = MAIN) -> str | None:
    """Return the commit that the cache has for a branch, tag or commit; None if it has none."""
    if COMMIT.fullmatch(revision):
        return revision if snapshot(model, revision) is not None else None
    try:
        commit = (_repository(model) / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return None
    return commit if snapshot(model, commit) is not None else None


def snapshot(model: str, commit: str) -> Path | None:
    """Return the directory of a commit in the cache; None if there is none. Some of its files may be missing."""
    directory = _repository(model) / "snapshots" / commit
    return directory if commit and directory.is_dir() else None


def snapshots(model: str) -> Sequence[Path]:
    """Return the directories of all cached commits of a model: the main branch first, then by age, the newest first."""
    parent = _repository(model) / "snapshots"
    found = [path for path in parent.glob("*") if path.is_dir()]
    main = cached_commit(model)
    return sorted(found, key=lambda path: (path.name != main, -path.stat().st_mtime, path.name))


def fetch(model: str, revision: str, *, weights: bool) -> Path:
    """Download a revision into the cache: configs and tokenizer, and with `weights` its safetensors.

    Only missing files are downloaded. Raises AccessRefused; ModelUnusable if the hub cannot be reached; other errors of
    its library: OSError, ValueError, RuntimeError.
    """
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    problem = _why_unreachable(model, revision)
    try:
        return _fetch(model, revision, weights=weights, cache_only=bool(problem))
    except GatedRepoError as error:
        raise AccessRefused(f"{model} is gated: the hub gives its files only after you accept its terms") from error
    except LocalEntryNotFoundError as error:
        reason = problem or _one_line(error.__cause__ or error)
        raise ModelUnusable(
            f"{model} is not on this machine, and the hub cannot be reached ({reason}). Connect and try again, or "
            "download it elsewhere and set [model] path to its directory."
        ) from error


def _why_unreachable(model: str, revision: str) -> str:
    """Return why the hub gives no answer; "": it gives one. Its library would try again for half a minute, and print
    each error."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT_S)
    except HfHubHTTPError:  # an answer: the download says what it means
        return ""
    except Exception as error:  # noqa: BLE001 - as in `_ask_hub`
        return _one_line(error)
    return ""


def _fetch(model: str, revision: str, *, weights: bool, cache_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    from gpu.model.base import INDEX, WEIGHTS, weights_files

    def get(*patterns: str, but: Sequence[str] = ()) -> Path:
        place = snapshot_download(
            model,
            revision=revision,
            cache_dir=cache_directory(),
            allow_patterns=list(patterns),
            ignore_patterns=list(but),
            local_files_only=cache_only,
        )
        return Path(place)

    directory = get(*_SMALL)
    if weights:
        directory = get(WEIGHTS)
        if not (directory / WEIGHTS).exists():
            sharded = weights_files(directory) if (directory / INDEX).exists() else ["*.safetensors"]
            directory = get(*sharded, but=["*/*"])
    return directory


def commit_of(directory: Path) -> str:
    """Return the commit of a snapshot in the cache; "" for any other directory."""
    return directory.name if directory.parent.name == "snapshots" and COMMIT.fullmatch(directory.name) else ""


def how_to_pin(directory: Path | None) -> str:
    """Return the command that pins a hub id to the commit in `directory`; None: it is not in the cache yet."""
    return f"keepstep config set model.revision {directory.name if directory is not None else 'COMMIT'}"


def refuse_revision_of_directory(revision: str, directory: Path) -> None:
    """Raise ModelUnusable if the settings name a directory and a revision, which a directory does not have."""
    if revision:
        raise ModelUnusable(
            f"[model] path is the directory {directory}, and a directory has no revisions, but [model] revision is "
            f"{revision}. Remove that line from keepstep.toml, or name a hub id in path."
        )


def _repository(model: str) -> Path:
    return cache_directory() / f"models--{model.replace('/', '--')}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
