"""What the promise hangs on, found in the syntax: each sync, rename, checksum, lock and fence is one mutant.

A mutant is the program with one of these taken away, at one place; some test must fail for it. They are found by the
rules below, never by line, so that code which is written tomorrow is found too:

    fsync      a call that puts something on disk does nothing; `sync=True` is `sync=False`
    rename     what was made under a temporary name and renamed is made in place; a plain move does not happen
    checksum   a comparison of bytes, sizes or chained numbers finds that all is well
    lock       a lock is not taken, and anyone who asks for it is told that he has it
    fencing    a word of another attempt, parent, head or process is believed; a poisoned journal continues

Locks between the threads of one process (`threading`) are not among them: no file depends on one.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("events", "journal", "core", "projections", "gpu", "cli")
OPERATORS = ("fsync", "rename", "checksum", "lock", "fencing")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

SYNCS = {"fsync", "fdatasync", "fsync_file", "fsync_directory", "fsync_tree", "drop_cache"}
RENAMES = {"rename", "rename_durably"}
STAGED = {"temporary_path", "with_name", "staging_of"}
"""What makes the name under which something stands until it is whole."""

CHECKSUM = re.compile(
    r"\w*(crc|sha256|digest|prev|trailer|manifest|size_bytes|st_size|valid_length|grad_norm|reducer)\w*"
    r"|(next_|last_)?seq|event|position|parameters|optimizer|shape|dtype"
)
"""What a comparison of contents compares: hashes, sizes, the chain of records, an event with its own bytes read back, a
step with the same step run again, a tensor with the one that is expected."""

FENCING = re.compile(
    r"attempts?|parent|head(_id)?|id|job|journal(_id)?|committed\w*|global_step|at_checkpoint|checkpoint|segment_name"
    r"|_worker|plan|named|quarantined|counted|sent|pid|boot_id|process_started_at"
)
"""What a comparison of identities compares: who is speaking, of what, after what."""

OPEN = re.compile("attempt|current|parent|trouble")
"""What must be nothing, or something, for a step to be legal: only these are compared with None to fence it."""

MESSAGE_MODULES = {
    "cli/config/schema.py",
    "cli/commands/control.py",
    "cli/commands/demo.py",
    "cli/commands/journal.py",
    "cli/output/console.py",
}
"""Modules whose comparisons choose words for a person; nothing on disk hangs on one."""

SAYS_FINE = {
    "_crc_holds": ("checksum", "True"),
    "is_whole": ("checksum", "True"),
    "_is_whole": ("checksum", "True"),
    "contains_position": ("checksum", "True"),
    "find_problem": ("checksum", "None"),
    "problem_of": ("checksum", "None"),
    "_problem": ("checksum", "None"),
    "verify": ("checksum", "{1}.read({0})"),
    "is_at_end": ("fencing", "True"),
    "is_abandoned": ("fencing", "False"),
    "refuse_unless_idle": ("fencing", "None"),
}
"""Checks that have a name, and what they answer without a look at anything; `{0}`: the first argument, `{1}`: the
object whose method it is."""

FACTS_THAT_ACCUSE = {"covered": "False", "promised": "False", "witnessed": "False", "rest": "False", "headers": "True"}
"""What a verdict is made of (`journal/verdicts.py`), and the answer that accuses nobody."""

TAKES = {"try_lock", "_try_lock"}
HOLDS = re.compile(r"\w*(lock|held|exclusive)")
"""What `with` holds for the time of a block. Its value, where one is wanted, says that it is held."""


class Edit(NamedTuple):
    """`text` instead of the bytes from `start` to `end`."""

    start: int
    end: int
    text: str


class Mutant(NamedTuple):
    """One thing taken away at one place."""

    operator: str
    path: str
    line: int
    description: str
    """`path:function: what`; one of a kind."""
    edits: tuple[Edit, ...]

    def applied(self, source: bytes) -> bytes:
        """The source with nothing else changed by a byte."""
        for edit in sorted(self.edits, reverse=True):
            source = source[: edit.start] + edit.text.encode() + source[edit.end :]
        return source


class Found(NamedTuple):
    """What a rule says of a node."""

    operator: str
    edits: tuple[Edit, ...]
    what: str


class Source:
    """One module: its bytes, its syntax, and what stands around each node."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path, self.data = path, data
        self.tree = ast.parse(data, path)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        starts = [0]
        for line in data.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts = starts

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte and the byte after the last."""
        assert isinstance(node, ast.expr | ast.stmt | ast.ExceptHandler | ast.arg | ast.keyword)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._starts[node.lineno - 1] + node.col_offset,
            self._starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def edit(self, node: ast.AST, text: str) -> Edit:
        return Edit(*self.span(node), text)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """What the node stands in, the nearest first."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> ast.AST:
        """The function that the node stands in, or the module."""
        return next((outer for outer in self.above(node) if isinstance(outer, FUNCTIONS)), self.tree)

    def place(self, node: ast.AST) -> str:
        """`Class.function`, as a person would say it."""
        names = [outer.name for outer in self.above(node) if isinstance(outer, (*FUNCTIONS, ast.ClassDef))]
        return ".".join(reversed(names)) or "the module"

    def before(self, node: ast.AST, other: ast.AST) -> bool:
        return self.span(node)[0] < self.span(other)[0]

    @cached_property
    def thread_locks(self) -> set[str]:
        """Names that hold a lock between threads."""
        return {
            name_of(node.targets[0])
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func).startswith("threading.")
        }


def name_of(node: ast.AST) -> str:
    """The last word of what is named or called: `fsync` of `self._storage.fsync(fd)`."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def words(node: ast.AST) -> set[str]:
    """What an expression is about: the last word of each name in it. `state.head.checkpoint.id` is about an id."""
    if isinstance(node, ast.Attribute):
        return {node.attr} | (words(node.value) if isinstance(node.value, ast.Call) else set())
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Call) and name_of(node) in {"getattr", "type"}:
        return set()
    return {word for inner in ast.iter_child_nodes(node) for word in words(inner)}


def shown(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 90 else f"{text[:87]}..."


# -- the rules ------------------------------------------------------------------------------------------------------


def syncs(source: Source, node: ast.AST) -> Iterator[Found]:
    if not isinstance(node, ast.Call):
        return
    drops = name_of(node) == "posix_fadvise" and "POSIX_FADV_DONTNEED" in words(node)
    if name_of(node) in SYNCS or drops:
        yield Found("fsync", (source.edit(node, "None"),), f"no {shown(node)}")
    for keyword in node.keywords:
        if keyword.arg == "sync" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True:
            yield Found("fsync", (source.edit(keyword.value, "False"),), f"sync=False in {shown(node)}")


def renames(source: Source, node: ast.AST) -> Iterator[Found]:
    if not isinstance(node, ast.Call) or not (
        name_of(node) in RENAMES or ast.unparse(node.func) in {"os.replace", "shutil.move"}
    ):
        return
    if len(node.args) < 2:  # Path.rename
        yield Found("rename", (source.edit(node, "None"),), f"no {shown(node)}")
        return
    origin, target = node.args[:2]
    inner = list(ast.walk(source.function(node)))
    made: list[ast.expr]
    if isinstance(origin, ast.Name):
        made = [
            other.value
            for other in inner
            if isinstance(other, ast.Assign)
            and ast.unparse(other.targets[0]) == origin.id
            and source.before(other, node)
            and (isinstance(other.value, ast.BinOp) or name_of(other.value) in STAGED)
        ][-1:]
    else:  # the same expression, where it is written before it is renamed
        same = [
            other
            for other in inner
            if isinstance(other, ast.expr) and ast.dump(other) == ast.dump(origin) and other is not origin
        ]
        made = [*same, origin] if any(source.before(other, node) for other in same) else []
    if not made:
        yield Found("rename", (source.edit(node, "None"),), f"no {shown(node)}")
        return
    final = f"({ast.unparse(target)})"
    edits = [source.edit(expression, final) for expression in made]
    edits += [source.edit(other, "os.O_TRUNC") for other in inner if ast.unparse(other) == "os.O_EXCL"]
    yield Found("rename", tuple(edits), f"{shown(origin)} is {shown(target)}: written in place")


def comparisons(source: Source, node: ast.AST) -> Iterator[Found]:
    if not isinstance(node, ast.Compare) or source.path in MESSAGE_MODULES:
        return
    if any(isinstance(outer, ast.Assert) for outer in source.above(node)):
        return
    about = words(node)
    operator = _compares(about)
    accuses = _leads_to_raise(source, node)
    if any(isinstance(side, ast.Constant) for side in (node.left, *node.comparators)):
        operator = "fencing" if accuses is not None and any(map(OPEN.fullmatch, about)) else ""
    if not operator:
        return
    if accuses is not None:
        fine = not accuses
    elif type(node.ops[0]) in {ast.Eq, ast.Is, ast.NotIn}:
        fine = True
    elif type(node.ops[0]) in {ast.NotEq, ast.IsNot, ast.In}:
        fine = False
    else:
        return
    yield Found(operator, (source.edit(node, str(fine)),), f"{shown(node)} is {fine}")


def _compares(about: set[str]) -> str:
    if any(map(CHECKSUM.fullmatch, about)) or about == {"size", "end"} or about == {"size", "offset"}:
        return "checksum"
    return "fencing" if any(map(FENCING.fullmatch, about)) else ""


def _leads_to_raise(source: Source, node: ast.AST) -> bool | None:
    """Which answer of a condition, True or False, can lead to a `raise`; None if neither."""
    answer, inner = True, node
    for outer in source.above(node):
        if isinstance(outer, ast.UnaryOp) and isinstance(outer.op, ast.Not):
            answer = not answer
        elif isinstance(outer, ast.If):
            return answer if inner is outer.test and isinstance(outer.body[-1], ast.Raise) else None
        elif not isinstance(outer, ast.BoolOp):
            return None
        inner = outer
    return None


def named_checks(source: Source, node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.Call):
        name = name_of(node)
        if name in SAYS_FINE:
            operator, answer = SAYS_FINE[name]
            first = ast.unparse(node.args[0]) if node.args else ""
            receiver = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            yield Found(
                operator, (source.edit(node, answer.format(first, receiver)),), f"{shown(node)} finds nothing wrong"
            )
            for keyword in node.keywords:
                if keyword.arg == "every_byte" and getattr(keyword.value, "value", None) is True:
                    yield Found(operator, (source.edit(keyword.value, "False"),), f"not every byte in {shown(node)}")
        elif re.match("_?check_", name) and isinstance(source.parents[node], ast.Expr) and source.path[:3] != "cli":
            operator = "fencing" if "poison" in name else "checksum"
            yield Found(operator, (source.edit(node, "None"),), f"no {shown(node)}")
        elif name == "Facts":
            for keyword in node.keywords:
                if keyword.arg in FACTS_THAT_ACCUSE and not isinstance(keyword.value, ast.Constant):
                    answer = FACTS_THAT_ACCUSE[keyword.arg]
                    yield Found("checksum", (source.edit(keyword.value, answer),), f"{keyword.arg} is {answer}")
    elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And) and isinstance(source.parents[node], ast.Return):
        check = getattr(source.function(node), "name", "")
        if check in SAYS_FINE:  # each part of what it answers by itself
            for part in node.values:
                yield Found(SAYS_FINE[check][0], (source.edit(part, "True"),), f"{shown(part)} is True")
    elif isinstance(node, ast.For) and len(node.body) == 1 and isinstance(node.body[0], ast.Raise):
        yield Found("checksum", (source.edit(node.iter, "()"),), f"nothing among {shown(node.iter)}")


def locks(source: Source, node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.Call):
        name = name_of(node)
        if name in TAKES:
            yield Found("lock", (source.edit(node, "True"),), f"{shown(node)} is True")
        takes = name == "flock" and "LOCK_UN" not in words(node)
        whose = name_of(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if takes or (name in {"take", "__enter__", "acquire"} and HOLDS.fullmatch(whose)):
            yield Found("lock", (source.edit(node, "None"),), f"no {shown(node)}")
    elif isinstance(node, ast.With):
        for item in node.items:
            name = name_of(item.context_expr)
            wanted = item.optional_vars is not None
            if not HOLDS.fullmatch(name) or name in source.thread_locks or (wanted and "held" not in name):
                continue  # a value that is more than "held": the lock is taken where that is made
            empty = f"__import__('contextlib').nullcontext({wanted})"
            yield Found("lock", (source.edit(item.context_expr, empty),), f"no {shown(item.context_expr)}")


def fences(source: Source, node: ast.AST) -> Iterator[Found]:
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        if ast.unparse(node) == "os.O_EXCL" and not _stages(source, node):
            yield Found("fencing", (source.edit(node, "0"),), "no os.O_EXCL")
        elif node.attr == "_is_read":
            yield Found("fencing", (source.edit(node, "True"),), f"{shown(node)} is True")
        elif node.attr == "_appended":
            yield Found("fencing", (source.edit(node, "False"),), f"{shown(node)} is False")
    elif (
        isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) in {"self._poison", "self.trouble"}
        and not isinstance(node.value, ast.Constant)
    ):
        yield Found("fencing", (source.edit(node.value, "None"),), f"no {shown(node)}")


def _stages(source: Source, node: ast.AST) -> bool:
    """Whether O_EXCL is about a fresh random name that is renamed later: it fences nobody there."""
    inner = ast.walk(source.function(node))
    return any(isinstance(other, ast.Call) and name_of(other) == "temporary_path" for other in inner)


RULES: tuple[Callable[[Source, ast.AST], Iterator[Found]], ...] = (
    syncs,
    renames,
    comparisons,
    named_checks,
    locks,
    fences,
)


def mutants_of(path: str, data: bytes) -> list[Mutant]:
    """The mutants of one module, in the order of its text."""
    source = Source(path, data)
    found = [(node, what) for node in ast.walk(source.tree) for rule in RULES for what in rule(source, node)]
    found.sort(key=lambda pair: (pair[1].edits[-1].start, pair[1].edits[-1].end, pair[1].operator))
    mutants: list[Mutant] = []
    edits: set[tuple[Edit, ...]] = set()
    seen: Counter[str] = Counter()
    for node, what in found:
        if what.edits in edits:
            continue  # two rules, one change
        edits.add(what.edits)
        description = f"{path}:{source.place(node)}: {what.what}"
        seen[description] += 1
        if seen[description] > 1:
            description += f" (number {seen[description]})"
        mutants.append(Mutant(what.operator, path, getattr(node, "lineno", 0), description, what.edits))
    return mutants


def all_mutants(root: Path) -> list[Mutant]:
    """The mutants of every module below `root`."""
    modules = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return [mutant for path in modules for mutant in mutants_of(path.relative_to(root).as_posix(), path.read_bytes())]
