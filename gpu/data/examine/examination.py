"""What is found in a data file as it is gone through, row by row, and what becomes of each row and of the file.

The rules, in the order in which they speak:

1. A row that cannot be learned from is bad. `bad_rows = "refuse"`: one refuses the file. `"skip"`: it is left out and
   put aside, unless more than `bad_rows_max` of all rows are bad.
2. A row of the validation set, or one that is held out, is left out.
3. What a check of `[checks]` finds in the file as a whole refuses it, or is said.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from events.settings import CheckSettings, JobSettings, Severity
from gpu.data.examine import quality
from gpu.data.examine.quality import Hashes, Identity, Pairs
from gpu.data.examine.report import PLACES, Bucket, Finding, Place, Report
from gpu.data.format.example import Problem, excerpt
from gpu.model.limits import UNLIMITED, ModelLimits

SKETCHED_ROWS = 100_000
"""Nearly equal rows are looked for among the first so many: 26 MB of sketches, a tenth of a millisecond for each."""

BUCKETS = 12
"""Of the histogram of lengths: one screen."""

Fate = Literal["whole", "truncated", "split", "dropped"]


class Outcome(NamedTuple):
    """What reading and encoding made of one row."""

    line: int
    problems: tuple[Problem, ...] = ()
    """Why it cannot be learned from; none if it can."""
    raw: bytes = b""
    """Of a bad row: as it stands in the file."""
    warnings: tuple[Problem, ...] = ()
    """What is to be said of a row that can be learned from all the same."""
    identity: Identity | None = None
    sketch: bytes = b""
    tokens: int = 0
    """Before anything was cut."""
    fate: Fate = "whole"
    cut_tokens: int = 0
    """Those that are left out because the row is too long."""


class FileFacts(NamedTuple):
    """The file that was gone through."""

    name: str
    sha256: str
    size_bytes: int
    kind: str
    rows_are: str | None


class Known(NamedTuple):
    """Rows that are known from elsewhere, each as sorted hashes of what they say."""

    validation: Hashes = np.zeros(0, np.uint64)
    earlier: Sequence[Hashes] = ()
    """Of files that were accepted before."""
    unusable: Sequence[Problem] = ()
    """What is wrong with rows of the validation set, or with all of it."""


NOTHING_KNOWN = Known()


@dataclass
class _Kind:
    """One kind of problem of rows."""

    first: Problem
    rows: int = 0
    places: list[Place] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        self.rows += 1
        if len(self.places) < PLACES:
            line = problem.line or 0
            self.places.append(Place(line=line, column=problem.column, what=problem.what, seen=excerpt(problem.seen)))


class Examination:
    """Sees every row of one file, once, in order; then tells. What it holds is about 60 bytes a row."""

    def __init__(
        self,
        settings: JobSettings,
        known: Known = NOTHING_KNOWN,
        put_aside: Callable[[bytes], None] = lambda _: None,
        limits: ModelLimits = UNLIMITED,
    ) -> None:
        """`put_aside` gets each row that is skipped, as it stands in the file."""
        self._data, self._checks = settings.data, settings.checks
        self._longest = limits.longest(settings.data.max_length)
        self.validation, self._known, self._unusable = known.validation, known.earlier, known.unusable
        self._put_aside = put_aside
        self._lines, self._lengths = array("q"), array("i")
        self._content, self._prompt, self._answer = array("Q"), array("Q"), array("Q")
        self._sketches = bytearray()
        self._bad: dict[str, _Kind] = {}
        self._warned: dict[str, _Kind] = {}
        self._of_the_file: list[Problem] = []
        self._of_all: list[Problem] = []
        self.rows = self.bad_rows = self.held_out_rows = self.in_validation = self.cut_tokens = 0
        self.fates: dict[Fate, int] = {"whole": 0, "truncated": 0, "split": 0, "dropped": 0}

    def see(self, outcome: Outcome) -> bool:
        """Take a row in; whether it is to be learned."""
        self.rows += 1
        for warning in outcome.warnings:
            self._warned.setdefault(warning.name, _Kind(warning)).add(warning)
        if outcome.problems:
            self.bad_rows += 1
            for problem in {problem.name: problem for problem in reversed(outcome.problems)}.values():
                self._bad.setdefault(problem.name, _Kind(problem)).add(problem)
            if self._data.bad_rows == "skip":
                self._put_aside(outcome.raw)
            return False
        self._lines.append(outcome.line)
        self._lengths.append(outcome.tokens)
        identity = outcome.identity or Identity(0, quality.NO_PROMPT, 0)
        for numbers, number in zip((self._content, self._prompt, self._answer), identity, strict=True):
            numbers.append(number)
        if len(self._lines) <= SKETCHED_ROWS:
            self._sketches += outcome.sketch
        self.fates[outcome.fate] += 1
        self.cut_tokens += outcome.cut_tokens
        return not self._is_held_out(identity.content) and outcome.fate != "dropped"

    def warn(self, problem: Problem) -> None:
        """Something is to be said of every row."""
        self._of_all.append(problem)

    def see_file(self, problem: Problem) -> None:
        """Something is wrong with the file as a whole."""
        self._of_the_file.append(problem)

    def _is_held_out(self, content: int) -> bool:
        in_validation = quality.is_among(content, self.validation)
        held_out = in_validation or (self._data.holdout > 0 and quality.is_held_out(content, self._data.holdout))
        self.in_validation += in_validation
        self.held_out_rows += held_out
        return held_out

    @property
    def content(self) -> Hashes:
        """What each good row says, in their order."""
        return np.frombuffer(self._content, dtype=np.uint64) if self._content else np.zeros(0, np.uint64)

    def report(self, file: FileFacts, *, trained: int, tokens: int, trained_tokens: int, replayed: int = 0) -> Report:
        """All that was found, and how much is learned."""
        findings = sorted(self._findings(), key=lambda finding: ("refuse", "skip", "warn").index(finding.severity))
        refused = any(finding.severity == "refuse" for finding in findings)
        return Report(
            file=file.name,
            verdict="refused" if refused else "good",
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            kind=file.kind,
            rows_are=file.rows_are,
            rows=self.rows,
            trained=trained,
            replayed=replayed,
            bad_rows=self.bad_rows,
            dropped_rows=self.fates["dropped"],
            truncated_rows=self.fates["truncated"],
            split_rows=self.fates["split"],
            held_out_rows=self.held_out_rows,
            cut_tokens=self.cut_tokens,
            tokens=tokens,
            trained_tokens=trained_tokens,
            longest_tokens=max(self._lengths, default=0),
            lengths=self._histogram(),
            findings=tuple(findings),
        )

    # -- what is found ----------------------------------------------------------------------------------------------

    def _findings(self) -> list[Finding]:
        found = [self._of_file(problem) for problem in self._of_the_file]
        found += self._of_bad_rows()
        if not self.rows and not found:
            advice = "Put one JSON object on each line, then add the file again."
            found.append(
                Finding(name="empty_file", severity="refuse", count=0, share=0.0, message="no rows", advice=advice)
            )
        checks = self._checks
        found += [self._finding(each.name, "warn", self.rows, each.what, each.advice) for each in self._of_all]
        found += self._of_warnings()
        good = len(self._lines)
        if good:
            found += self._of_length(checks)
            found += self._of_likeness(checks)
            found += self._of_other_files(checks)
        if good and not found_refusal(found) and self.held_out_rows + self.fates["dropped"] == good:
            what = "no row is left to learn from: all of them are held out, too long or bad"
            found.append(self._finding("nothing_left", "refuse", good, what))
        return found

    def _of_file(self, problem: Problem) -> Finding:
        place = Place(line=problem.line or 0, what=problem.what, seen=excerpt(problem.seen))
        places = () if problem.line is None else (place,)
        said = f"{problem.what}: {excerpt(problem.seen)}" if problem.seen else problem.what
        return self._finding(problem.name, "refuse", len(places), said, problem.advice, places)

    def _of_bad_rows(self) -> list[Finding]:
        skip = self._data.bad_rows == "skip"
        found = [
            self._finding(
                name, "skip" if skip else "refuse", kind.rows, kind.first.what, kind.first.advice, tuple(kind.places)
            )
            for name, kind in sorted(self._bad.items(), key=lambda item: item[1].places[0].line)
        ]
        share, most = self._share(self.bad_rows), self._data.bad_rows_max
        if skip and (share > most or self.bad_rows == self.rows > 0):
            what = f"{share:.1%} of the rows are bad, and bad_rows_max allows {most:.1%}"
            advice = "Mend them, or raise [data] bad_rows_max in keepstep.toml."
            found.insert(0, self._finding("too_many_bad_rows", "refuse", self.bad_rows, what, advice))
        return found

    def _of_warnings(self) -> list[Finding]:
        return [
            self._finding(name, "warn", kind.rows, kind.first.what, kind.first.advice, tuple(kind.places))
            for name, kind in self._warned.items()
        ]

    def _of_length(self, checks: CheckSettings) -> list[Finding]:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        over = int(np.count_nonzero(lengths > self._longest))
        share = self._share(over)
        if share <= min(checks.too_long_warn, checks.too_long_max):
            return []
        severity: Severity = checks.too_long
        if severity == "refuse" and share <= checks.too_long_max:
            severity = "warn"
        became = {"truncate": "cut at the end", "drop": "left out", "split": "cut into pieces", "refuse": "refused"}
        limited = self._longest < self._data.max_length
        most = f"the {self._longest} tokens that the model has positions for"
        message = (
            f"{share:.1%} of the rows have more than {most if limited else f'max_length = {self._longest} tokens'}"
        )
        advice = f'They are {became[self._data.long]} ([data] long = "{self._data.long}").'
        if self.cut_tokens:
            lost = self.cut_tokens / int(lengths.sum(dtype=np.int64))
            advice += f" {self.cut_tokens:,} tokens, {lost:.1%} of all, are left out."
        if not limited:
            advice += " Raise [data] max_length."
        return self._found("many_too_long", severity, over, message, advice)

    def _of_likeness(self, checks: CheckSettings) -> list[Finding]:
        rows, found = len(self._lines), []
        same = quality.repeated(self.content)
        different = rows - len(same.row)
        found += self._pairs("duplicate_rows", checks.duplicates, checks.duplicates_max, same, "says the same as")
        if different / rows < checks.diversity_min:
            message = f"only {different:,} of {rows:,} rows are different ({different / rows:.1%})"
            advice = (
                "Training would learn a few rows by heart. Remove the repeated ones, or lower [checks] diversity_min."
            )
            found += self._found("low_diversity", checks.diversity, rows - different, message, advice)
        answered = quality.contradicting(
            np.frombuffer(self._prompt, dtype=np.uint64), np.frombuffer(self._answer, dtype=np.uint64)
        )
        most = checks.contradictions_max
        found += self._pairs("contradicting_rows", checks.contradictions, most, answered, "answers otherwise than")
        if checks.near_duplicates != "off" and self._sketches:
            sketches = np.frombuffer(self._sketches, dtype="<u4").reshape(-1, quality.SKETCH_NUMBERS)
            alike = quality.nearly_the_same(sketches, checks.near_duplicates_similarity)
            nearly = ~np.isin(alike.row, same.row)
            pairs, most = Pairs(alike.row[nearly], alike.earlier[nearly]), checks.near_duplicates_max
            found += self._pairs("near_duplicate_rows", checks.near_duplicates, most, pairs, "says nearly the same as")
        return found

    def _of_other_files(self, checks: CheckSettings) -> list[Finding]:
        found = []
        known = np.flatnonzero(quality.known_among(self.content, self._known))
        if self._share(len(known)) > checks.trained_before_max:
            message = "rows that were in files which were accepted before"
            places = self._places(known[:PLACES], "was in an earlier file")
            found += self._found("trained_before", checks.trained_before, len(known), message, "", places)
        if self._share(self.in_validation) > checks.validation_max:
            message = "rows of the validation set; they are left out"
            found += self._found("in_validation", checks.validation, self.in_validation, message, "")
        if self._unusable:
            first = self._unusable[0].message.partition("\n")[0]
            message = f"the validation set is not whole, and what cannot be read of it would be learned: {first}"
            advice = "`keepstep data check` on the set itself says more. Mend it."
            found += self._found("validation_damaged", "warn", 0, message, advice)
        return found

    def _pairs(self, name: str, severity: Severity, most: float, pairs: Pairs, what: str) -> list[Finding]:
        count = len(pairs.row)
        if self._share(count) <= most:
            return []
        places = tuple(
            Place(line=self._lines[int(row)], what=f"{what} line {self._lines[int(earlier)]}")
            for row, earlier in zip(pairs.row[:PLACES], pairs.earlier[:PLACES], strict=True)
        )
        among = f" (of the first {SKETCHED_ROWS:,})" if name.startswith("near") and self.rows > SKETCHED_ROWS else ""
        verb, _, rest = what.partition(" ")
        message = f"rows{among} that {verb[:-1]} {rest} an earlier one"
        return self._found(name, severity, count, message, "", places)

    def _found(
        self, name: str, severity: Severity, count: int, message: str, advice: str, places: tuple[Place, ...] = ()
    ) -> list[Finding]:
        """What a check found, unless it is off."""
        return [] if severity == "off" else [self._finding(name, severity, count, message, advice, places)]

    def _finding(
        self,
        name: str,
        severity: Literal["refuse", "skip", "warn"],
        count: int,
        message: str,
        advice: str = "",
        places: tuple[Place, ...] = (),
    ) -> Finding:
        return Finding(
            name=name,
            severity=severity,
            count=count,
            share=self._share(count),
            message=message,
            advice=advice,
            places=places,
        )

    def _places(self, rows: np.ndarray, what: str) -> tuple[Place, ...]:
        return tuple(Place(line=self._lines[int(row)], what=what) for row in rows)

    def _share(self, count: int) -> float:
        return count / self.rows if self.rows else 0.0

    def _histogram(self) -> tuple[Bucket, ...]:
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.zeros(0, np.int32)
        if not len(lengths):
            return ()
        width = -(-int(lengths.max()) // BUCKETS) or 1
        counts = np.bincount(np.maximum(lengths - 1, 0) // width, minlength=1)
        return tuple(Bucket((place + 1) * width, int(count)) for place, count in enumerate(counts))


def found_refusal(findings: Sequence[Finding]) -> bool:
    """Whether the file is refused for any of them."""
    return any(finding.severity == "refuse" for finding in findings)
