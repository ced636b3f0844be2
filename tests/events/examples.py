"""One example of every event kind, fact and order, and some with the odd values that a field may have."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from events import kinds, messages
from events.course import Course, Split
from events.evaluation import (
    Comparison,
    Divergence,
    FileChange,
    FileScore,
    HeldOutFile,
    QuestionScore,
    ResultsFile,
    Scores,
    Suites,
    TaskScore,
)
from events.kinds import AnyEvent
from events.samples import SampleAnswer, SampleBudget, SamplePlan, SamplesSettings
from events.self_correction import AnsweredPrompt, CorrectionPlan, OwnAnswer, SelfCorrectionSettings
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
    VersionSettings,
)
from events.trained import Trained, TrainedFile

JOB = "ab" * 32
CHECKPOINT = "step-00000012-attempt-0003"
BACKUP = "before-v002-attempt-0004"
PARENT = "step-00000010-attempt-0002"

ANSWER = SampleAnswer(
    prompt_id="0123456789ab",
    prompt="What is 2 + 2?",
    expected="4",
    answer="<think>\n2 + 2</think>Four.",
    match=False,
    thinks=True,
    tokens=9,
    finish="end",
)
SAMPLED: dict[str, Any] = {
    "global_step": 12,
    "step": 6,
    "asked": True,
    "answers": (ANSWER,),
    "match": "numeric",
    "think_tag": "<think>",
    "temperature": 0.7,
    "seed": 42,
    "tokens": 9,
    "seconds": 0.25,
}

CORRECTED: dict[str, Any] = {
    "global_step": 12,
    "step": 6,
    "seed": 4711,
    "settings": SelfCorrectionSettings(kind="reflect", match="regex", pattern="=(.*)"),
    "prompts": (
        AnsweredPrompt(
            job="cd" * 32,
            line=3,
            answers=(OwnAnswer(text="=7", right=False, times=2), OwnAnswer(text="=9", right=True)),
            left_out=1,
        ),
    ),
    "answers": 4,
    "right": 1,
    "distinct": 0.75,
    "mean_tokens": 2.5,
    "kl": 0.125,
    "tokens": 10,
    "seconds": 1.5,
    "chat": True,
}

RESULTS = ResultsFile(id="v002-attempt-0005", sha256="78" * 32, size_bytes=4096)
SCORES = Scores(
    files=(
        FileScore(job=JOB, rows=16, tokens=640, loss=1.75, accuracy=0.625),
        FileScore(job="cd" * 32, rows=1, tokens=4, loss="NaN", accuracy=0.0),
    ),
    questions=QuestionScore(total=10, right=4),
)
EVALUATED: dict[str, Any] = {
    "version": "v002",
    "results": RESULTS,
    "scores": SCORES,
    "comparison": Comparison(
        parent="v001",
        scores=Scores(questions=QuestionScore(total=10, right=9)),
        changes=(FileChange(job=JOB, rows=16, change=0.25, low=0.125, high=0.5),),
        gained=1,
        lost=6,
    ),
    "divergence": Divergence(nats=0.5, tokens=640),
    "suites_sha256": "9a" * 32,
    "seconds": 12.5,
    "problem": "",
}

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
    model=ModelSettings(path="org/name", revision="0123456789abcdef" * 2 + "01234567", dtype="bfloat16"),
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
    kinds.FileEnqueued(job=JOB, name='a "b" \\ ünï 🦶.jsonl', size_bytes=2**40, priority="high", retrain=False),
    kinds.FileEnqueued(job=JOB, name="twice.jsonl", size_bytes=1, priority="low", retrain=True),
    kinds.JobMoved(job=JOB, priority="high", before="cd" * 32),
    kinds.JobMoved(job=JOB, priority="low", before=None),
    kinds.JobHeld(job=JOB),
    kinds.JobReleased(job=JOB),
    kinds.JobRemoved(job=JOB, name="a.jsonl", keeps_data=False),
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
    kinds.TrainingStarted(
        job=JOB,
        attempt=3,
        global_step=0,
        step=0,
        checkpoint=None,
        environment={},
        changed=(),
        trained=Trained(layers={"q_proj": 2, "v_proj": 2}, parameters=2048, share=0.0125),
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
    kinds.EvaluationDone(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        rows=128,
        tokens=4096,
        loss=2.25,
        training_loss=1.5,
        seconds=0.75,
        concern="wide_gap",
    ),
    kinds.EvaluationDone(
        job=JOB,
        attempt=3,
        global_step=6,
        step=0,
        rows=128,
        tokens=4096,
        loss="NaN",
        training_loss=None,
        seconds=0.75,
        concern="not_finite",
    ),
    kinds.JobEvaluated(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        results=replace(RESULTS, id="step-00000012-attempt-0003"),
        scores=SCORES,
        divergence=None,
        suites_sha256="9a" * 32,
        seconds=1.25,
        problem="",
    ),
    kinds.JobEvaluated(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        results=None,
        scores=Scores(),
        divergence=Divergence(nats=0.125, tokens=64),
        suites_sha256="",
        seconds=0.5,
        problem="2 GiB are missing",
    ),
    kinds.EvaluationAbandoned(job=JOB, attempt=3, failure="hang", message="no progress for 600 s"),
    kinds.SamplesRequested(job=JOB),
    kinds.SamplesGenerated(job=JOB, attempt=3, **SAMPLED),
    kinds.SamplesPutOff(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        round_s=8.5,
        trained_s=200.0,
        cost_max=0.01,
        next_step=1000,
    ),
    kinds.SamplesFailed(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        asked=False,
        failure="out_of_memory",
        message="2 GiB are missing",
        seconds=0.5,
    ),
    kinds.SamplesAbandoned(job=JOB, attempt=3, failure="hang", message="no progress for 600 s"),
    kinds.SelfCorrectionAnswered(
        job=JOB,
        attempt=3,
        round=4,
        base="v001",
        checkpoint=PARENT,
        rows=3,
        **CORRECTED,
    ),
    kinds.SelfCorrectionPutOff(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        round_s=8.5,
        trained_s=20.0,
        cost_max=0.1,
        next_step=None,
    ),
    kinds.SelfCorrectionFailed(
        job=JOB,
        attempt=3,
        global_step=12,
        step=6,
        failure="verifier",
        message="[self_correction] command judged no answer: it ended with exit code 3",
        seconds=0.5,
    ),
    kinds.SelfCorrectionAbandoned(job=JOB, attempt=3, failure="hang", message="no progress for 600 s"),
    kinds.SelfCorrectionFileStarted(
        number=1,
        name="self-correction-0001.jsonl",
        first_round=1,
        last_round=4,
        base="v001",
        settings=CORRECTED["settings"],
        replay=("cd" * 32,),
    ),
    kinds.SelfCorrectionFileQueued(
        number=1, job="ef" * 32, name="self-correction-0001.jsonl", rows=200, references=100, replayed=100
    ),
    kinds.SelfCorrectionStopped(cause="pass_rate", message="20% of its answers were right, after 60% before"),
    kinds.SelfCorrectionResumed(),
    kinds.MicrobatchSplit(job=JOB, attempt=3, global_step=13, step=7, parts=4, steps=128, message="2 GiB are missing"),
    kinds.BatchSkipped(
        job=JOB,
        attempt=3,
        global_step=13,
        step=7,
        loss="NaN",
        grad_norm="Infinity",
        suspicion="not_finite",
        message="loss NaN",
        lines=(3, 17),
        earlier={"cd" * 32: (5,)},
    ),
    kinds.AttemptFailed(job=JOB, attempt=3, failure="loss", message="loss NaN", retry_at=1.8e9),
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
    kinds.LeftoverDeleted(path="checkpoints/.staging-x", size_bytes=0),
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
    kinds.ConsolidationRequested(description="die Nacht", after_current=True, scheduled_for="2026-11-24"),
    kinds.ConsolidationRequested(description="", after_current=False, scheduled_for=None),
    kinds.ConsolidationCancelled(message="nothing was learned"),
    kinds.ConsolidationStarted(attempt=4, version="v002", parent="v001", checkpoint=CHECKPOINT, backup=BACKUP),
    kinds.ConsolidationStarted(attempt=4, version="v001", parent=None, checkpoint=CHECKPOINT, backup=BACKUP),
    kinds.ConsolidationStarted(
        attempt=4, version="v002", parent="v001", checkpoint=CHECKPOINT, backup=BACKUP, gate="hold"
    ),
    kinds.ConsolidationBackedUp(attempt=4),
    kinds.ConsolidationMerged(attempt=4, applied=0.9987, in_place=0.025),
    kinds.ConsolidationMerged(attempt=4, applied=None, in_place=None),
    kinds.ConsolidationVerified(attempt=4, difference=0.0029, tolerance=0.1),
    kinds.VersionPublished(attempt=4, version="v002", size_bytes=2**28, manifest_sha256="34" * 32, made_at=1.8e9 + 0.5),
    kinds.ConsolidationFinished(attempt=4, version="v002"),
    kinds.ConsolidationFinished(attempt=4, version="v002", promoted=False),
    kinds.VersionEvaluationRequested(version="v002"),
    kinds.TasksEvaluated(
        version="v002",
        scores=(
            TaskScore(task="sums", metric="acc", value=0.5, stderr=0.05, samples=100, higher_is_better=True),
            TaskScore(task="text", metric="ppl", value="Infinity", stderr=None, samples=1, higher_is_better=False),
        ),
        limit=100,
        seconds=12.5,
        device="cpu",
        harness="0.4.13",
    ),
    kinds.VersionEvaluationStarted(
        attempt=5,
        version="v002",
        parent="v001",
        evaluation="v002-attempt-0005",
        settings=VersionSettings(gate="hold", max_forgetting=0.25, max_drop=0.0),
    ),
    kinds.VersionEvaluationStarted(
        attempt=5, version="v001", parent=None, evaluation="v001-attempt-0005", settings=VersionSettings()
    ),
    kinds.VersionEvaluated(attempt=5, **EVALUATED, worse="right answers fell from 9 to 4 of 10 (max_drop 0.05)"),
    kinds.VersionEvaluated(
        attempt=5, **{**EVALUATED, "comparison": None, "divergence": None, "problem": "no question"}, worse=""
    ),
    kinds.VersionEvaluationFailed(
        attempt=5, version="v002", failure="hang", message="no progress", retry=True, retry_at=1.8e9
    ),
    kinds.VersionEvaluationFailed(
        attempt=5, version="v002", failure=None, message="it was asked to yield", retry=True, retry_at=None
    ),
    kinds.VersionHeld(version="v002", reason="right answers fell from 9 to 4 of 10 (max_drop 0.05)"),
    kinds.VersionPromoted(version="v002", by="person"),
    kinds.ConsolidationAborted(attempt=4, failure=None, message="the daemon was gone", retry_at=None),
    kinds.ConsolidationAborted(attempt=4, failure="preflight", message="too little room", retry_at=1.8e9),
    kinds.HeadMoved(version="v001", checkpoint=None, backup=None),
    kinds.HeadMoved(version=None, checkpoint=CHECKPOINT, backup="manual-0001"),
    kinds.CheckpointRestored(checkpoint=CHECKPOINT),
    kinds.VersionDeleted(version="v001", size_bytes=2**28, by="person"),
    kinds.BackupCreated(
        backup="manual-0001",
        reason="before I try this",
        base="v001",
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
    kinds.BackupDeleted(backup="manual-0001", size_bytes=123_789, by="retention"),
    kinds.MemoryLow(
        total_bytes=24 * 10**9, available_bytes=10**9, worker_bytes=4 * 10**9, grace_s=30.0, at=1_800_000_000.25
    ),
    kinds.MemoryRecovered(available_bytes=8 * 10**9),
    kinds.ConfigChanged(
        job=JOB,
        changes=(
            kinds.Change("training.learning_rate", "0.0002", "0.0001"),
            kinds.Change("data.prompt", "", '"question"'),
        ),
    ),
    kinds.ConfigChanged(job=None, changes=(kinds.Change("disk.soft_gb", "0.0", "20.0"),)),
    kinds.ConfigRefused(reason="keepstep.toml: model.path is missing", advice="mend it"),
    kinds.ConfigFixed(),
    kinds.OrphanEnded(pid=4711, started_at=1.8e9, command="python -P -m gpu.worker --home /home/me/models"),
    kinds.OverheadMeasured(
        wall_s=86_400.5,
        cpu_s=90.25,
        training_s=43_200.0,
        training_cpu_s=80.0,
        parts={"the journal": 60.0, "views": 0.5},
    ),
)

FACTS: tuple[messages.AnyFact, ...] = (
    messages.Hello(attempt=0, pid=4712),
    messages.Heartbeat(attempt=3, phase="prepare", done=1, total=48),
    messages.Prepared(attempt=3, plan=PLAN),
    messages.Rejected(attempt=3, problem="binary", line=None, message="no text"),
    messages.Loaded(attempt=3, environment={"device": "cpu"}),
    messages.Step(
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
    messages.CheckpointWritten(
        attempt=3,
        checkpoint=CHECKPOINT,
        global_step=12,
        step=6,
        parent=None,
        size_bytes=1,
        manifest_sha256="12" * 32,
        reason="end",
    ),
    messages.Evaluated(
        attempt=3, global_step=12, step=6, rows=128, tokens=4096, loss=2.25, training_loss=1.5, seconds=0.75
    ),
    messages.JobEvaluated(
        attempt=3,
        global_step=12,
        step=6,
        results=RESULTS,
        scores=SCORES,
        divergence=None,
        suites_sha256="9a" * 32,
        seconds=1.25,
        problem="",
    ),
    messages.Sampled(attempt=3, **SAMPLED),
    messages.SamplesPutOff(
        attempt=3, global_step=12, step=6, round_s=8.5, trained_s=200.0, cost_max=0.01, next_step=1000
    ),
    messages.SamplesFailed(
        attempt=3, global_step=12, step=6, asked=False, failure="prompts", message="no row", seconds=0.5
    ),
    messages.SelfCorrected(attempt=3, **CORRECTED),
    messages.SelfCorrectionPutOff(
        attempt=3, global_step=12, step=6, round_s=8.5, trained_s=20.0, cost_max=0.1, next_step=400
    ),
    messages.SelfCorrectionFailed(attempt=3, global_step=12, step=6, failure="prompts", message="no row", seconds=0.5),
    messages.OutOfMemory(
        attempt=3, global_step=13, step=7, sequences=4, during="gradients", message="2 GiB are missing"
    ),
    messages.BatchSuspect(
        attempt=3,
        global_step=13,
        step=7,
        loss=9.5,
        grad_norm=0.25,
        suspicion="spike",
        message="far above",
        lines=(3, 17),
        earlier={},
    ),
    messages.CheckpointBad(attempt=3, checkpoint=CHECKPOINT, problem="a flipped bit"),
    messages.BackedUp(attempt=4, size_bytes=123_789, manifest_sha256="56" * 32),
    messages.Merged(attempt=4, applied=0.9987, in_place=None),
    messages.Verified(attempt=4, difference=0.0029, tolerance=0.1),
    messages.VersionWritten(attempt=4, version="v002", size_bytes=2**28, manifest_sha256="34" * 32),
    messages.VersionEvaluated(attempt=5, **EVALUATED),
    messages.Yielded(attempt=3),
    messages.Failed(attempt=3, failure="code", message="division by zero", trace="Traceback …"),
)

ORDERS: tuple[messages.AnyOrder, ...] = (
    messages.Prepare(attempt=3, job=JOB, settings=FULL),
    messages.Train(attempt=3, global_step=10, step=4, until=12, base="v001", checkpoint=PARENT, carry_optimizer=True),
    messages.Train(
        attempt=3,
        global_step=10,
        step=4,
        until=12,
        checkpoint=PARENT,
        carry_optimizer=True,
        evaluates=True,
        evaluated_to=4,
        samples=SampleBudget(sampled_to=4, trained_s=12.5, round_s=0.25, asked=True),
        sample_plan=SamplePlan(settings=SamplesSettings(prompts="p.jsonl"), prompts_sha256=JOB),
        suites=Suites(rows_max=64, questions_max=16),
    ),
    messages.SelfCorrect(
        attempt=3,
        plan=CorrectionPlan(
            settings=SelfCorrectionSettings(match="command", command="./check.py"), sources=("cd" * 32,), round_s=0.5
        ),
    ),
    messages.SelfCorrect(attempt=3),
    messages.Sample(attempt=3, plan=SamplePlan(settings=SamplesSettings(), problem="it is gone"), asked=True),
    messages.RunAgain(attempt=3, course=Course(splits=(Split(step=7, parts=4, steps=128),), skipped=(2, 5))),
    messages.Consolidate(
        attempt=4,
        version="v002",
        parent="v001",
        checkpoint=CHECKPOINT,
        backup=BACKUP,
        description="die Nacht",
        files=(TrainedFile(name="a.jsonl", sha256=JOB, rows=48, epochs=2, steps=(1, 12)),),
        space_factor=3.0,
    ),
    messages.EvaluateVersion(
        attempt=5,
        version="v002",
        parent="v001",
        evaluation="v002-attempt-0005",
        parent_results=replace(RESULTS, id="v001-attempt-0003"),
        suites=Suites(
            files=(HeldOutFile(job=JOB, data=DataSettings(holdout=0.1), rows={"too_long": "refuse"}),), new=(JOB,)
        ),
        model=ModelSettings(path="models/tiny"),
    ),
    messages.Yield(attempt=3),
    messages.Committed(attempt=3, checkpoint=CHECKPOINT),
    messages.Shutdown(attempt=0),
)
