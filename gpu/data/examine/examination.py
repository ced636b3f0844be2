"""Examine a data file row by row, and decide what becomes of each row and of the file.

The rules, in this order:

1. A row that cannot be trained is bad. With `bad_rows = "refuse"` one bad row refuses the file. With `"skip"` bad rows
   are skipped and saved, unless more than `bad_rows_max` of all rows are bad.
2. A row of the validation set, or one that is held out, is not trained.
3. A check of `[checks]` that the file as a whole fails refuses it, or is reported.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from events.settings import CheckSettings, JobSettings, Severity
from gpu.data.examine import quality
from gpu.data.examine.lengths import LengthCounts
from gpu.data.examine.quality import Hashes, RowHashes, RowPairs
from gpu.data.examine.report import OCCURRENCES_MAX, Finding, Occurrence, Report
from gpu.data.problems import Problem, excerpt
from gpu.model.limits import UNLIMITED, ModelLimits

SKETCHED_ROWS = 100_000
"""Rows that are compared for near-duplicates, from the beginning: 26 MB of MinHashes, a tenth of a millisecond for
each."""

LengthTreatment = Literal["whole", "truncated", "split", "dropped"]


class RowResult(NamedTuple):
    """The result of parsing and encoding one row."""

    line: int
    problems: tuple[Problem, ...] = ()
    """The problems that make it bad; none if it is good."""
    raw: bytes = b""
    """Bytes of a bad row as they stand in the file."""
    warnings: tuple[Problem, ...] = ()
    """Warnings about a good row."""
    identity: RowHashes | None = None
    sketch: bytes = b""
    tokens: int = 0
    """Tokens before anything was cut."""
    treatment: LengthTreatment = "whole"
    cut_tokens: int = 0
    """Tokens that are lost because the row is too long."""


class FileFacts(NamedTuple):
    """Facts about the examined file."""

    name: str
    sha256: str
    size_bytes: int
    kind: str
    rows_are: str | None


class KnownRows(NamedTuple):
    """Rows of other files, as sorted content hashes."""

    validation: Hashes = np.zeros(0, np.uint64)
    earlier: Sequence[Hashes] = ()
    """Hashes of the files that were accepted earlier."""
    unusable: Sequence[Problem] = ()
    """Problems of the validation set and its rows."""


NOTHING_KNOWN = KnownRows()


_PAIR_MESSAGES = {
    "duplicate_rows": ("rows are identical to an earlier row", "is identical to"),
    "near_duplicate_rows": ("rows are nearly identical to an earlier row", "is nearly identical to"),
    "contradicting_rows": ("rows have another answer to the prompt of an earlier row", "has another answer than"),
}
"""By problem: the message, and the relation of a row to an earlier one."""


@dataclass
class _ProblemCount:
    """Counts the rows with one kind of problem."""

    first: Problem
    rows: int = 0
    occurrences: list[Occurrence] = field(default_factory=list)

    def add(self, row: int, problem: Problem) -> None:
        self.rows += 1
        if len(self.occurrences) < OCCURRENCES_MAX:
            self.occurrences.append(_occurrence(row, problem))


def _occurrence(row: int, problem: Problem) -> Occurrence:
    line, column = problem.line or 0, problem.column
    return Occurrence(row=row, line=line, column=column, what=problem.what, seen=excerpt(problem.seen))


def _with_excerpt(problem: Problem) -> str:
    return f"{problem.what}: {excerpt(problem.seen)}" if problem.seen else problem.what


def _first_of_each_name(problems: Sequence[Problem]) -> Iterable[Problem]:
    """Return the first problem of each name: a row counts once for each kind of problem."""
    return {problem.name: problem for problem in reversed(problems)}.values()


class Examination:
    """Examines the rows of one file, each once and in order, then reports.

    It holds 32 bytes for each good row, because any two rows may be identical: three hashes and a line. Reporting takes
    about 20 more. Lengths and problems are counted, so they take no memory for each row.
    """

    def __init__(
        self,
        settings: JobSettings,
        known: KnownRows = NOTHING_KNOWN,
        save_skipped: Callable[[bytes], None] = lambda _: None,
        limits: ModelLimits = UNLIMITED,
    ) -> None:
        """`save_skipped` receives each skipped row, as it stands in the file."""
        self._data, self._checks = settings.data, settings.checks
        self._longest = limits.longest(settings.data.max_length)
        self.validation, self._earlier, self._unusable = known.validation, known.earlier, known.unusable
        self._put_aside = save_skipped
        self._lines, self._lengths = array("q"), LengthCounts()
        self._good_before_bad = array("q")
        """For each bad row, the number of good rows before it."""
        self._content, self._prompt, self._answer = array("Q"), array("Q"), array("Q")
        self._sketches = bytearray()
        self._bad: dict[str, _ProblemCount] = {}
        self._warned: dict[str, _ProblemCount] = {}
        self._file_problems: list[Problem] = []
        self._warnings: list[Problem] = []
        self.rows = self.bad_rows = self.held_out_rows = self.in_validation = self.cut_tokens = 0
        self.treatments: dict[LengthTreatment, int] = {"whole": 0, "truncated": 0, "split": 0, "dropped": 0}

    def add(self, result: RowResult) -> bool:
        """Count a row; True if it is trained."""
        self.rows += 1
        for warning in _first_of_each_name(result.warnings):
            self._warned.setdefault(warning.name, _ProblemCount(warning)).add(self.rows, warning)
        if result.problems:
            self.bad_rows += 1
            self._good_before_bad.append(len(self._lines))
            for problem in _first_of_each_name(result.problems):
                self._bad.setdefault(problem.name, _ProblemCount(problem)).add(self.rows, problem)
            if self._data.bad_rows == "skip":
                self._put_aside(result.raw)
            return False
        self._lines.append(result.line)
        self._lengths.add(result.tokens)
        identity = result.identity or RowHashes(0, quality.NO_PROMPT, 0)
        for numbers, number in zip((self._content, self._prompt, self._answer), identity, strict=True):
            numbers.append(number)
        if len(self._lines) <= SKETCHED_ROWS:
            self._sketches += result.sketch
        self.treatments[result.treatment] += 1
        self.cut_tokens += result.cut_tokens
        return not self._is_held_out(identity.content) and result.treatment != "dropped"

    def add_warning(self, problem: Problem) -> None:
        """Add a warning that concerns every row."""
        self._warnings.append(problem)

    def add_file_problem(self, problem: Problem) -> None:
        """Add a problem of the file as a whole."""
        self._file_problems.append(problem)

    def _is_held_out(self, content: int) -> bool:
        in_validation = quality.contains(self.validation, content)
        held_out = in_validation or (self._data.holdout > 0 and quality.is_in_holdout(content, self._data.holdout))
        self.in_validation += in_validation
        self.held_out_rows += held_out
        return held_out

    @property
    def content(self) -> Hashes:
        """Content hashes of the good rows, in order."""
        return np.frombuffer(self._content, dtype=np.uint64) if self._content else np.zeros(0, np.uint64)

    def report(self, file: FileFacts, *, trained: int, tokens: int, trained_tokens: int, replayed: int = 0) -> Report:
        """Return the report, with all findings."""
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
            dropped_rows=self.treatments["dropped"],
            truncated_rows=self.treatments["truncated"],
            split_rows=self.treatments["split"],
            held_out_rows=self.held_out_rows,
            cut_tokens=self.cut_tokens,
            tokens=tokens,
            trained_tokens=trained_tokens,
            longest_tokens=self._lengths.longest,
            quantiles=self._lengths.quantiles(),
            max_length=self._longest,
            lengths=self._lengths.histogram(),
            findings=tuple(findings),
        )

    # -- what is found ----------------------------------------------------------------------------------------------

    def _findings(self) -> list[Finding]:
        found = [self._file_finding(problem) for problem in self._file_problems]
        found += self._bad_row_findings()
        if not self.rows and not found:
            advice = "Put one JSON object on each line, then add the file again."
            found.append(
                Finding(
                    name="empty_file",
                    severity="refuse",
                    count=0,
                    share=0.0,
                    message="the file has no rows",
                    advice=advice,
                )
            )
        checks = self._checks
        found += [self._finding(each.name, "warn", 0, _with_excerpt(each), each.advice) for each in self._warnings]
        found += self._warning_findings()
        good = len(self._lines)
        if good:
            found += self._length_findings(checks)
            found += self._similarity_findings(checks)
            found += self._other_file_findings(checks)
        if good and not has_refusal(found) and self.held_out_rows + self.treatments["dropped"] == good:
            what = "no row is left to train: all rows are held out, too long or bad"
            found.append(self._finding("nothing_left", "refuse", good, what))
        return found

    def _file_finding(self, problem: Problem) -> Finding:
        places = () if problem.line is None else (_occurrence(0, problem),)
        return self._finding(problem.name, "refuse", 0, _with_excerpt(problem), problem.advice, places)

    def _bad_row_findings(self) -> list[Finding]:
        skip = self._data.bad_rows == "skip"
        found = [
            self._finding(
                name,
                "skip" if skip else "refuse",
                count.rows,
                count.first.what,
                count.first.advice,
                tuple(count.occurrences),
            )
            for name, count in sorted(self._bad.items(), key=lambda item: item[1].occurrences[0].line)
        ]
        share, most = self._share(self.bad_rows), self._data.bad_rows_max
        if skip and (share > most or self.bad_rows == self.rows > 0):
            what = f"{share:.1%} of the rows are bad, and [data] bad_rows_max allows {most:.1%}"
            advice = "Correct them, or raise [data] bad_rows_max in keepstep.toml."
            found.insert(0, self._finding("too_many_bad_rows", "refuse", self.bad_rows, what, advice))
        return found

    def _warning_findings(self) -> list[Finding]:
        return [
            self._finding(name, "warn", count.rows, count.first.what, count.first.advice, tuple(count.occurrences))
            for name, count in self._warned.items()
        ]

    def _length_findings(self, checks: CheckSettings) -> list[Finding]:
        over = len(self._lines) - self.treatments["whole"]
        share = self._share(over)
        if share <= min(checks.too_long_warn, checks.too_long_max):
            return []
        severity: Severity = checks.too_long
        if severity == "refuse" and share <= checks.too_long_max:
            severity = "warn"
        action = {"truncate": "cuts", "drop": "drops", "split": "splits", "refuse": "refuses"}
        limited = self._longest < self._data.max_length
        most = f"the model's {self._longest} positions"
        message = (
            f"{share:.1%} of the rows have more tokens than {most if limited else f'max_length = {self._longest}'}"
        )
        advice = f'keepstep {action[self._data.long]} them ([data] long = "{self._data.long}").'
        if self.cut_tokens:
            lost = self.cut_tokens / self._lengths.tokens
            advice += f" {self.cut_tokens:,} tokens, {lost:.1%} of all tokens, are not trained."
        if not limited:
            advice += " To train more of them, raise [data] max_length."
        return self._check_finding("many_too_long", severity, over, message, advice)

    def _similarity_findings(self, checks: CheckSettings) -> list[Finding]:
        rows, found = len(self._lines), []
        same = quality.find_duplicates(self.content)
        different = rows - len(same.row)
        found += self._pair_findings("duplicate_rows", checks.duplicates, checks.duplicates_max, same)
        if different / rows < checks.diversity_min:
            message = f"only {different:,} of {rows:,} good rows are different ({different / rows:.1%} of them)"
            advice = "The model would memorize a few rows. Remove the repeated rows, or lower [checks] diversity_min."
            found += self._check_finding("low_diversity", checks.diversity, rows - different, message, advice)
        contradictions = quality.find_contradictions(
            np.frombuffer(self._prompt, dtype=np.uint64), np.frombuffer(self._answer, dtype=np.uint64)
        )
        most = checks.contradictions_max
        found += self._pair_findings("contradicting_rows", checks.contradictions, most, contradictions)
        if checks.near_duplicates != "off" and self._sketches:
            sketches = np.frombuffer(self._sketches, dtype="<u4").reshape(-1, quality.SKETCH_NUMBERS)
            alike = quality.find_near_duplicates(sketches, checks.near_duplicates_similarity)
            nearly = ~np.isin(alike.row, same.row)
            pairs, most = RowPairs(alike.row[nearly], alike.earlier[nearly]), checks.near_duplicates_max
            found += self._pair_findings("near_duplicate_rows", checks.near_duplicates, most, pairs)
        return found

    def _other_file_findings(self, checks: CheckSettings) -> list[Finding]:
        found = []
        known = np.flatnonzero(quality.is_known(self.content, self._earlier))
        if self._share(len(known)) > checks.trained_before_max:
            message = "rows were in files that were accepted earlier"
            places = tuple(self._good_row(row, "was in an earlier file") for row in known[:OCCURRENCES_MAX])
            found += self._check_finding("trained_before", checks.trained_before, len(known), message, "", places)
        if self._share(self.in_validation) > checks.validation_max:
            message = "rows are in the validation set; keepstep does not train them"
            found += self._check_finding("in_validation", checks.validation, self.in_validation, message, "")
        if self._unusable:
            first = self._unusable[0].message.partition("\n")[0]
            message = f"the validation set is damaged, so rows that belong to it may be trained: {first}"
            advice = "Correct the set; `keepstep data check` on it reports every problem."
            found += self._check_finding("validation_damaged", "warn", 0, message, advice)
        return found

    def _pair_findings(self, name: str, severity: Severity, most: float, pairs: RowPairs) -> list[Finding]:
        count = len(pairs.row)
        if self._share(count) <= most:
            return []
        message, what = _PAIR_MESSAGES[name]
        places = tuple(
            self._good_row(row, f"{what} row {self._number(earlier)}")
            for row, earlier in zip(pairs.row[:OCCURRENCES_MAX], pairs.earlier[:OCCURRENCES_MAX], strict=True)
        )
        if name == "near_duplicate_rows" and self.rows > SKETCHED_ROWS:
            message += f" (among the first {SKETCHED_ROWS:,} rows)"
        return self._check_finding(name, severity, count, message, "", places)

    def _check_finding(
        self, name: str, severity: Severity, count: int, message: str, advice: str, places: tuple[Occurrence, ...] = ()
    ) -> list[Finding]:
        """Return the finding of a check as a list, empty if the check is off."""
        return [] if severity == "off" else [self._finding(name, severity, count, message, advice, places)]

    def _finding(
        self,
        name: str,
        severity: Literal["refuse", "skip", "warn"],
        count: int,
        message: str,
        advice: str = "",
        places: tuple[Occurrence, ...] = (),
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

    def _good_row(self, index: int, what: str) -> Occurrence:
        return Occurrence(row=self._number(index), line=self._lines[index], what=what)

    def _number(self, index: int) -> int:
        """Return the number of a good row in the file, from 1. `index`: its index among the good rows."""
        return int(index) + 1 + bisect_right(self._good_before_bad, int(index))

    def _share(self, count: int) -> float:
        return count / self.rows if self.rows else 0.0


def has_refusal(findings: Sequence[Finding]) -> bool:
    """True if any finding refuses the file."""
    return any(finding.severity == "refuse" for finding in findings)
