"""One example of every event kind, fact and order, and some with the odd values that a field may have."""

from __future__ import annotations

from events import kinds, places, upkeep, versions, worker
from events.kinds import AnyEvent
from events.settings import (
    CheckpointSettings,
    DataSettings,
    FullSettings,
    JobSettings,
    LoraSettings,
    ModelSettings,
    Plan,
    QloraSettings,
    TrainingSettings,
)

JOB = "ab" * 32
CHECKPOINT = "step-00000012-attempt-0003"
BACKUP = "before-v002-attempt-0004"
PARENT = "step-00000010-attempt-0002"

PLAN = Plan(
    rows=48,
    tokens=4800,
    trained_tokens=2400,
    truncated_rows=1,
    dropped_rows=2,
    split_rows=3,
    skipped_rows=4,
    epochs=2,
    steps_per_epoch=6,
    steps_total=12,
    padding_share=0.015625,
    tokenizer_sha256="cd" * 32,
    batches_sha256="ef" * 32,
)

LORA = JobSettings(
    model=ModelSettings(path="models/tiny"), method=LoraSettings(target_modules=("q_proj", "v_proj"), use_dora=True)
)
FULL = JobSettings(
    model=ModelSettings(path="org/name", dtype="bfloat16"),
    method=FullSettings(),
    data=DataSettings(format="auto", prompt="question", completion="answer", max_length=512),
    training=TrainingSettings(learning_rate=1e-5, schedule="linear", precision="bf16", optimizer="reset"),
    checkpoints=CheckpointSettings(every_steps=0, every_seconds=30.0, keep=1, keep_every_steps=100),
)

EVENTS: tuple[AnyEvent, ...] = (
    kinds.HomeCreated(home_id="0123abcd", keepstep="0.1.0"),
    kinds.DaemonStarted(pid=4711, process_started_at=1.8e9, boot_id="b-1", host="nächte", keepstep="0.1.0"),
    kinds.DaemonStopped(reason="asked to stop"),
    kinds.DaemonHeld(reason="the model cannot be loaded", advice="mend [model]"),
    kinds.PauseRequested(),
    kinds.Resumed(),
    kinds.StopRequested(),
    kinds.FileEnqueued(job=JOB, name='a "b" \\ ünï 🦶.jsonl', size_bytes=2**40, priority="high", again=False),
    kinds.FileEnqueued(job=JOB, name="twice.jsonl", size_bytes=1, priority="low", again=True),
    places.JobMoved(job=JOB, priority="high", before="cd" * 32),
    places.JobMoved(job=JOB, priority="low", before=None),
    places.JobHeld(job=JOB),
    places.JobReleased(job=JOB),
    places.JobRemoved(job=JOB, name="a.jsonl", keeps_data=False),
    kinds.FileDuplicate(job=JOB, name="again.jsonl"),
    kinds.AttemptStarted(job=JOB, attempt=1, settings=LORA),
    kinds.AttemptStarted(job=JOB, attempt=2, settings=FULL),
    kinds.AttemptStarted(
        job=JOB, attempt=3, settings=JobSettings(model=ModelSettings(path="models/tiny"), method=QloraSettings())
    ),
    kinds.JobPrepared(job=JOB, attempt=3, plan=PLAN),
    kinds.JobRejected(job=JOB, attempt=3, name="a.jsonl", problem="broken_json", line=7, message="line 7: no JSON"),
    kinds.JobRejected(job=JOB, attempt=3, name="a.jsonl", problem="empty", line=None, message="nothing in it"),
    kinds.RejectedFileMoved(job=JOB, path="rejected/a.jsonl"),
    kinds.TrainingStarted(
        job=JOB, attempt=3, global_step=10, step=4, checkpoint=PARENT, environment={"torch": "2.13.0"}, changed=()
    ),
    kinds.TrainingStarted(
        job=JOB, attempt=3, global_step=0, step=0, checkpoint=None, environment={}, changed=("threads: 2 → 4",)
    ),
    kinds.StepReached(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        epoch=1,
        loss=0.1 + 0.2,
        grad_norm=5e-324,
        learning_rate=2e-4,
        tokens=400,
        seconds=0.25,
    ),
    kinds.StepReached(
        job=JOB,
        attempt=3,
        global_step=13,
        step=7,
        epoch=2,
        loss="NaN",
        grad_norm="-Infinity",
        learning_rate=0.0,
        tokens=0,
        seconds=0.0,
    ),
    kinds.DivergenceDetected(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        loss=1.0,
        grad_norm="Infinity",
        expected_loss=1.0000000000000002,
        expected_grad_norm=2.5,
    ),
    kinds.CheckpointCommitted(
        checkpoint=CHECKPOINT,
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        parent=PARENT,
        size_bytes=123_456,
        manifest_sha256="12" * 32,
        reason="steps",
    ),
    kinds.CheckpointPruned(checkpoint=PARENT, size_bytes=123_456),
    kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="a flipped bit", head=PARENT),
    kinds.CheckpointQuarantined(checkpoint=CHECKPOINT, problem="a flipped bit", head=None),
    kinds.PartialSwept(path="checkpoints/.staging-x", size_bytes=0),
    kinds.JobTrained(job=JOB, attempt=3, global_step=12, checkpoint=CHECKPOINT),
    kinds.AttemptInterrupted(job=JOB, attempt=3, reason="the daemon (pid 4711) was gone"),
    kinds.AttemptYielded(job=JOB, attempt=3),
    kinds.AttemptFailed(job=JOB, attempt=3, failure="out_of_memory", message="no memory", retry_at=1.8e9 + 2),
    kinds.AttemptFailed(job=JOB, attempt=3, failure="model", message="no such model", retry_at=None),
    kinds.JobFailed(job=JOB, message="given up after 5 attempts"),
    kinds.JobRetried(job=JOB),
    kinds.JobSkipRequested(job=JOB),
    kinds.JobSkipped(job=JOB),
    kinds.AttemptFailed(job=JOB, attempt=3, failure="disk_full", message="the disk is full", retry_at=None),
    kinds.AttemptFailed(job=JOB, attempt=3, failure="data", message="the file has changed", retry_at=None),
    kinds.StorageExhausted(message="the disk is full: journal/00000001.jsonl", wanted_bytes=2**33),
    kinds.StorageFreed(free_bytes=2**34),
    kinds.StorageLow(free_bytes=10**9, wanted_bytes=2 * 10**9),
    kinds.StorageRecovered(free_bytes=3 * 10**9),
    kinds.JournalRepaired(first_seq=8, last_seq=9, problem="rot"),
    versions.ConsolidationRequested(description="die Nacht", after_current=True, night="2026-11-24"),
    versions.ConsolidationRequested(description="", after_current=False, night=None),
    versions.ConsolidationDropped(message="nothing was learned"),
    versions.ConsolidationStarted(attempt=4, version="v002", parent="v001", checkpoint=CHECKPOINT, backup=BACKUP),
    versions.ConsolidationStarted(attempt=4, version="v001", parent=None, checkpoint=CHECKPOINT, backup=BACKUP),
    versions.ConsolidationBackedUp(attempt=4),
    versions.ConsolidationMerged(attempt=4, applied=0.9987, in_place=0.025),
    versions.ConsolidationMerged(attempt=4, applied=None, in_place=None),
    versions.ConsolidationVerified(attempt=4, difference=0.0029, tolerance=0.1),
    versions.VersionPublished(
        attempt=4, version="v002", size_bytes=2**28, manifest_sha256="34" * 32, made_at=1.8e9 + 0.5
    ),
    versions.ConsolidationFinished(attempt=4, version="v002"),
    versions.ConsolidationAborted(attempt=4, failure=None, message="the daemon was gone", retry_at=None),
    versions.ConsolidationAborted(attempt=4, failure="preflight", message="too little room", retry_at=1.8e9),
    versions.HeadMoved(version="v001", checkpoint=None, backup=None),
    versions.HeadMoved(version=None, checkpoint=CHECKPOINT, backup="manual-0001"),
    versions.CheckpointRestored(checkpoint=CHECKPOINT),
    versions.VersionDeleted(version="v001", size_bytes=2**28, by="person"),
    versions.BackupCreated(
        backup="manual-0001",
        reason="before I try this",
        version="v001",
        checkpoint=CHECKPOINT,
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        checkpoint_bytes=123_456,
        checkpoint_sha256="12" * 32,
        size_bytes=123_789,
        manifest_sha256="56" * 32,
        made_at=1.8e9,
    ),
    versions.BackupDeleted(backup="manual-0001", size_bytes=123_789, by="retention"),
    upkeep.OrphanEnded(pid=4711, started_at=1.8e9, command="python -P -m gpu.worker --home /home/me/models"),
    upkeep.WatchCostMeasured(
        wall_s=86_400.5,
        cpu_s=90.25,
        training_s=43_200.0,
        training_cpu_s=80.0,
        parts={"the journal": 60.0, "views": 0.5},
    ),
)

FACTS: tuple[worker.AnyFact, ...] = (
    worker.Hello(attempt=0, pid=4712),
    worker.Heartbeat(attempt=3, phase="prepare", done=1, total=48),
    worker.Prepared(attempt=3, plan=PLAN),
    worker.Rejected(attempt=3, problem="binary", line=None, message="no text"),
    worker.Loaded(attempt=3, environment={"device": "cpu"}),
    worker.Step(
        attempt=3,
        global_step=12,
        step=6,
        epoch=1,
        loss="NaN",
        grad_norm=0.5,
        learning_rate=2e-4,
        tokens=400,
        seconds=0.25,
    ),
    worker.CheckpointWritten(
        attempt=3,
        checkpoint=CHECKPOINT,
        global_step=12,
        step=6,
        parent=None,
        size_bytes=1,
        manifest_sha256="12" * 32,
        reason="end",
    ),
    worker.CheckpointBad(attempt=3, checkpoint=CHECKPOINT, problem="a flipped bit"),
    worker.BackedUp(attempt=4, size_bytes=123_789, manifest_sha256="56" * 32),
    worker.Merged(attempt=4, applied=0.9987, in_place=None),
    worker.Verified(attempt=4, difference=0.0029, tolerance=0.1),
    worker.VersionWritten(attempt=4, version="v002", size_bytes=2**28, manifest_sha256="34" * 32),
    worker.Yielded(attempt=3),
    worker.Failed(attempt=3, failure="code", message="division by zero", trace="Traceback …"),
)

ORDERS: tuple[worker.AnyOrder, ...] = (
    worker.Prepare(attempt=3, job=JOB, settings=FULL),
    worker.Train(attempt=3, global_step=10, step=4, until=12, base="v001", checkpoint=PARENT, carry_optimizer=True),
    worker.Consolidate(
        attempt=4,
        version="v002",
        parent="v001",
        checkpoint=CHECKPOINT,
        backup=BACKUP,
        description="die Nacht",
        files=(worker.LearnedFile(name="a.jsonl", sha256=JOB, rows=48, epochs=2, steps=(1, 12)),),
        space_factor=3.0,
    ),
    worker.Yield(attempt=3),
    worker.Committed(attempt=3, checkpoint=CHECKPOINT),
    worker.Shutdown(attempt=0),
)
