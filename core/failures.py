"""Explanations of failures: what each kind means, and what a person can do about it.

The one table of it. `keepstep failures` and `keepstep explain` read from it, a hold takes its advice from it, and
`docs/reference/failures.md` is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from events.values import Failure

Trouble = Failure | Literal["interrupted", "diverged", "damaged", "held", "validation"]
"""The kind of failure of an attempt; or another problem that a person should know of."""


class Explanation(NamedTuple):
    """The explanation for a person."""

    meaning: str
    advice: str


EXPLANATIONS: Mapping[Trouble, Explanation] = {
    "out_of_memory": Explanation(
        "memory ran out, on the GPU or in the machine",
        "micro-batches are split by themselves; where one row alone does not fit, lower [data] max_length or make the "
        "model smaller ([model] dtype, [method] kind), and look whether something else needs the memory",
    ),
    "disk_full": Explanation(
        "the disk was full; nothing committed is lost",
        "free some space: work resumes by itself",
    ),
    "storage": Explanation(
        "the disk did not take or give what it should have, though it is not full",
        "fix the disk, then `keepstep resume` and `keepstep run`",
    ),
    "data": Explanation(
        "the file of the job is gone, or its bytes are not those that were accepted",
        "put the file back as it was (`keepstep add` takes a changed one as another job), or `keepstep skip` the job; "
        "then `keepstep resume`",
    ),
    "checkpoint": Explanation(
        "a checkpoint is not what it should be: it does not fit the model and the settings, or it is damaged",
        "put the model back that was trained so far, then `keepstep resume`",
    ),
    "plan": Explanation(
        "the job would train other tokens than it began with, or in another order: the tokenizer, the data, or the "
        "version of keepstep is another one",
        "put the old tokenizer and data back, or finish the job with the keepstep that began it, or `keepstep skip` "
        "the job, which keeps what it trained; then `keepstep resume`",
    ),
    "hang": Explanation(
        "the worker proved no progress for too long and was ended",
        "look at what it did last (`keepstep logs`); if it was only slow, give it longer: [worker] "
        "silence_s, silence_min_s, step_silence_min_s",
    ),
    "killed": Explanation(
        "the worker's process was killed, by a person or another program",
        "find out by whom: the kernel's log (`dmesg`) names what the system ended; nothing else needs to be done",
    ),
    "code": Explanation(
        "an error in the program or in a library, or a crash in native code",
        "read its trace (`keepstep logs`); if it comes again, report it",
    ),
    "loss": Explanation(
        "the loss or a gradient was not finite, or the loss rose far above those before; what is committed is good",
        "nothing at once: the batch is skipped. If the job fails permanently for it, look at the rows that `keepstep "
        "explain` names, then `keepstep retry`; for later files lower [training] learning_rate",
    ),
    "driver": Explanation(
        "the GPU or its driver failed, or is not there any more",
        "`keepstep doctor`, `nvidia-smi` and the kernel's log (`dmesg`: NVRM, Xid) say more; often a "
        "restart of the machine helps",
    ),
    "model": Explanation(
        "the model or its tokenizer cannot be loaded, trained or merged as keepstep.toml asks for",
        "do what the message says (it names the setting or the file), then `keepstep resume`",
    ),
    "preflight": Explanation(
        "there was too little room or memory to begin",
        "make room, or lower [consolidation] space_factor; then ask for it again",
    ),
    "interrupted": Explanation(
        "the daemon was gone in the middle: killed, a power cut, a crash of the machine. It counts as no failure",
        "nothing: it continued from the last commit. If nobody did that, look at the kernel's log",
    ),
    "diverged": Explanation(
        "a step that was run again did not give the same bits as the first time",
        "look at what changed between the two (`keepstep explain` of the step): libraries, device, threads, hardware. "
        "`keepstep lineage --prove` runs the last steps once more",
    ),
    "damaged": Explanation(
        "a committed checkpoint is not what was committed: the disk changed it, or somebody did",
        "nothing at once: its ancestor is used and the steps are run again. Look at the disk before it happens again",
    ),
    "held": Explanation(
        "keepstep stopped by itself, because a person is needed",
        "do what the message says, then `keepstep resume`",
    ),
    "validation": Explanation(
        "the loss on rows that are never trained on rises while that of the file falls, or is not finite",
        "`keepstep skip` ends the job after its last commit, `keepstep versions rollback` goes back; for later files "
        "lower [training] epochs or learning_rate. If the set is no measure for such files: [evaluation] rows = 0",
    ),
}
