"""A disk that remembers what is not safe yet, fed with recorded calls, and every state that it may be found in.

Two kinds of file system, both of which journal their metadata and keep a rename whole:

    ext4      names change in order: a power cut keeps a prefix of what was done to names. A sync of a file or directory
              makes everything up to the last change of it (its creation, its renames, its entries) durable.
    hostile   any subset of the changes of names may be kept, as long as those of one file and of one name stay in
              their order. A sync of a directory makes the changes of its entries durable, and only those; a sync of a
              file none at all, not even its own name.

On both, what was written to a file since its last sync is there or not, sector by sector, and where the size is there
before the data there are zeros. After a kill alone, everything that was called has happened.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.crash.contents import Blob, File, Tree
from tests.crash.strace_log import Call

CARELESS = ("home/status/",)
"""Written without a sync, on purpose. All but the last changes of names in it count as done, as they would be after
some seconds, so that they do not crowd out the others."""
CARELESS_PENDING_MAX = 4
UNWATCHED = ("home/logs", "home/run", "home/journal/reserve")
"""Of no meaning for what a home holds: never pending, never in an image."""


class Change(NamedTuple):
    """One change of names, whole or not at all: (directory, name, inode or None), all at once."""

    number: int
    entries: tuple[tuple[int, str, int | None], ...]
    inode: int
    """What was created, moved or removed."""
    place: str
    """For whom reads it: the path."""


class Disk:
    """Call `apply` with each call; `images` are the states that a power cut just then may leave."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.files: dict[int, File] = {}
        self.now: dict[int, dict[str, int]] = {0: {}}
        self.durable: dict[int, dict[str, int]] = {0: {}}
        self.pending: list[Change] = []
        self._numbers = itertools.count(1)
        self._calls = 0

    # -- calls ------------------------------------------------------------------------------------------------------

    def apply(self, call: Call) -> Change | File | None:
        """Let it happen. Returns what may be lost now and could not be lost before."""
        self._calls += 1
        if is_unwatched(call.path):
            return None
        match call.kind:
            case "create":
                return self._create(call)
            case "write":
                file = self._file(call.path)
                at = len(file.now) if call.at is None else call.at
                return self._put(
                    call.path, file.now[:at].ljust(at, b"\0") + call.data + file.now[at + len(call.data) :]
                )
            case "resize":
                size, now = call.at or 0, self._file(call.path).now
                return self._put(
                    call.path, now if call.grows_only and size <= len(now) else now[:size].ljust(size, b"\0")
                )
            case "rename":
                inode, target = self._inode(call.path), self._lookup(call.target)
                if target == inode:
                    return None
                entries = (*self._entry(call.path, None), *self._entry(call.target, inode))
                return self._change(entries, inode, call.target)
            case "remove":
                return self._change(self._entry(call.path, None), self._inode(call.path), call.path)
            case "mkdir":
                inode = next(self._numbers)
                self.now[inode], self.durable[inode] = {}, {}
                return self._change(self._entry(call.path, inode), inode, call.path)
            case "sync":
                self._sync(self._inode(call.path), call.began)
                return None
        raise ValueError(call.kind)

    def _create(self, call: Call) -> Change | File | None:
        inode = self._lookup(call.path)
        if inode is not None:
            return self._put(call.path, b"") if call.truncates and inode in self.files else None
        inode = next(self._numbers)
        self.files[inode] = File()
        return self._change(self._entry(call.path, inode), inode, call.path)

    def _put(self, path: str, data: bytes) -> File | None:
        file = self._file(path)
        if file.now == data:
            return None
        file.now = data
        return file

    def _change(self, entries: tuple[tuple[int, str, int | None], ...], inode: int, path: str) -> Change | None:
        change = Change(self._calls, entries, inode, path)
        _do(self.now, change)
        self.pending.append(change)
        if not path.startswith("home/"):
            self._settle([change])  # the user's own, and the name of the home
            return None
        careless = [c for c in self.pending if c.place.startswith(CARELESS)]
        self._settle(careless[:-CARELESS_PENDING_MAX])
        return change

    def _sync(self, inode: int, began: int) -> None:
        if inode in self.files:
            self.files[inode].durable = self.files[inode].now
        touching = [
            c
            for c in self.pending
            if c.number <= began
            and (any(d == inode for d, _, _ in c.entries) or (c.inode == inode and self.kind == "ext4"))
        ]
        if self.kind == "ext4" and touching:
            touching = [c for c in self.pending if c.number <= touching[-1].number]
        self._settle(touching)
        reachable = self._reachable()
        self.pending = [c for c in self.pending if any(d in reachable for d, _, _ in c.entries)]

    def _settle(self, changes: list[Change]) -> None:
        done = self.closure(changes)
        for change in self.pending:
            if change.number in done:
                _do(self.durable, change)
        self.pending = [c for c in self.pending if c.number not in done]

    def closure(self, changes: Iterable[Change]) -> set[int]:
        """The numbers of `changes` and of every earlier one that each of them builds upon."""
        wanted = {c.number for c in changes}
        inodes: set[int] = set()
        slots: set[tuple[int, str]] = set()
        for change in reversed(self.pending):
            mine = {(d, name) for d, name, _ in change.entries}
            if change.number in wanted or change.inode in inodes or mine & slots:
                wanted.add(change.number)
                inodes.add(change.inode)
                slots |= mine
        return wanted

    # -- images -----------------------------------------------------------------------------------------------------

    def killed(self) -> Tree:
        """Everything that was called has happened."""
        return self._tree(self.now, {})

    def images(self, news: Change | File | None, limit: int, seed: str) -> Iterator[tuple[str, Tree]]:
        """What a power cut may leave; with `news`, only those in which it has left a trace. Each with its name.

        All of them if they are at most `limit`; else the telling ones and some of the others, by `seed`.
        """
        forced = self.closure([news]) if isinstance(news, Change) else set()
        free = [c for c in self.pending if c.number not in forced]
        dirty = [(inode, self.files[inode]) for inode in sorted(self._reachable() & self.files.keys())]
        dirty = [(inode, file) for inode, file in dirty if file.dirty]
        choices = [range(1 if file is news else 0, len(file.variants())) for _, file in dirty]
        subsets = self._subsets(free, forced, limit)
        whole = len(subsets) * _product(choices)
        if whole <= limit:
            picked: Iterable[tuple[frozenset[int], tuple[int, ...]]] = itertools.product(
                subsets, itertools.product(*choices)
            )
        else:
            picked = _sample(subsets, choices, limit, random.Random(seed))
        done: dict[frozenset[int], dict[int, dict[str, int]]] = {}
        for subset, versions in picked:
            if subset not in done:
                done[subset] = self._with(subset)
            contents = {inode: file.variants()[v] for (inode, file), v in zip(dirty, versions, strict=True)}
            name = ",".join(map(str, sorted(subset))) + "/" + ",".join(map(str, versions))
            yield name, self._tree(done[subset], contents)

    def _subsets(self, free: list[Change], forced: set[int], limit: int) -> list[frozenset[int]]:
        """Which changes may have been kept: none but the forced ones first, all last."""
        if self.kind == "ext4":
            last = max(forced, default=0)
            numbers = [c.number for c in self.pending]
            return [frozenset(n for n in numbers if n <= last), *(frozenset(n for n in numbers if n <= cut)
                    for cut in numbers if cut > last)]  # fmt: skip
        if len(free) <= 6:
            picks: Iterable[tuple[Change, ...]] = (
                pick for n in range(len(free) + 1) for pick in itertools.combinations(free, n)
            )
        else:
            choose = random.Random(len(free))
            some = [tuple(c for c in free if choose.random() < 0.5) for _ in range(limit)]
            builds_on = {c.number: self.closure([c]) for c in free}
            without = [tuple(c for c in free if one.number not in builds_on[c.number]) for one in free]
            prefixes = [tuple(free[:n]) for n in range(len(free))]
            picks = [(), *((one,) for one in free), *without, *prefixes, *some, tuple(free)]
        return list(dict.fromkeys(frozenset(self.closure(pick) | forced) for pick in picks))

    def _with(self, subset: frozenset[int]) -> dict[int, dict[str, int]]:
        names = dict(self.durable)
        for change in self.pending:
            if change.number in subset:
                for directory, _, _ in change.entries:
                    if names[directory] is self.durable[directory]:
                        names[directory] = dict(names[directory])
                _do(names, change)
        return names

    def _tree(self, names: dict[int, dict[str, int]], contents: dict[int, Blob]) -> Tree:
        tree: Tree = {}

        def walk(directory: int, prefix: str) -> None:
            for name, inode in names[directory].items():
                path = prefix + name
                if inode in self.files:
                    tree[path] = contents.get(inode) or Blob.of(self.files[inode].now)
                else:
                    tree[path] = None
                    walk(inode, path + "/")

        home = names[0].get("home")
        if home is not None:
            walk(home, "home/")
        return tree

    # -- names ------------------------------------------------------------------------------------------------------

    def _lookup(self, path: str) -> int | None:
        inode = 0
        for name in path.split("/"):
            found = self.now[inode].get(name)
            if found is None:
                return None
            inode = found
        return inode

    def _inode(self, path: str) -> int:
        inode = 0 if path in {"", "."} else self._lookup(path)
        if inode is None:
            raise FileNotFoundError(path)
        return inode

    def _file(self, path: str) -> File:
        return self.files[self._inode(path)]

    def _entry(self, path: str, inode: int | None) -> tuple[tuple[int, str, int | None]]:
        parent, _, name = path.rpartition("/")
        return ((self._inode(parent), name, inode),)

    def _reachable(self) -> set[int]:
        """Inodes that can have a name in some image."""
        links = {d: set(entries.values()) for d, entries in self.durable.items()}
        for change in self.pending:
            for directory, _, inode in change.entries:
                if inode is not None:
                    links[directory].add(inode)
        found, todo = {0}, [0]
        while todo:
            for inode in links.get(todo.pop(), ()):
                if inode not in found:
                    found.add(inode)
                    todo.append(inode)
        return found


def _do(names: dict[int, dict[str, int]], change: Change) -> None:
    for directory, name, inode in change.entries:
        if inode is None:
            names[directory].pop(name, None)
        else:
            names[directory][name] = inode


def is_unwatched(path: str) -> bool:
    """Whether this file is of no meaning for the images."""
    return any(path == place or path.startswith(place + "/") for place in UNWATCHED)


def _product(choices: list[range]) -> int:
    size = 1
    for choice in choices:
        size *= len(choice)
    return size


def _sample(
    subsets: list[frozenset[int]], choices: list[range], limit: int, choose: random.Random
) -> Iterable[tuple[frozenset[int], tuple[int, ...]]]:
    old, new = tuple(c[0] for c in choices), tuple(c[-1] for c in choices)
    picked = [(subsets[0], old), (subsets[0], new), (subsets[-1], old), (subsets[-1], new)]
    for index, choice in enumerate(choices):
        picked += [(subsets[-1], (*new[:index], version, *new[index + 1 :])) for version in choice]
    picked += [(subset, versions) for subset in subsets for versions in (old, new)]
    if len(picked) > limit:
        picked = picked[:4] + choose.sample(picked[4:], max(0, limit - 4))
    while len(picked) < limit:
        picked.append((choose.choice(subsets), tuple(choose.choice(choice) for choice in choices)))
    return dict.fromkeys(picked)
