"""Every fact that keepstep journals, in the past tense.

The tag (`kind`) and the version (`v`) are what stands on disk. Neither is ever used again for another meaning. To
change the shape of an event, raise its version; to rename its kind, add an alias (both in `upcasters.py`). Stored bytes
never change.

Events carry decisions, never rules: if a retry must wait, `attempt_failed` says until when. So a replay years later,
under newer rules, arrives at the same state.
"""

from __future__ import annotations

from typing import get_args

from events.event import Event
from events.kinds.attempts import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptStarted,
    AttemptYielded,
)
from events.kinds.config import (
    Change,
    ConfigChanged,
    ConfigFixed,
    ConfigRefused,
)
from events.kinds.consolidation import (
    ConsolidationAborted,
    ConsolidationBackedUp,
    ConsolidationCancelled,
    ConsolidationFinished,
    ConsolidationMerged,
    ConsolidationRequested,
    ConsolidationStarted,
    ConsolidationVerified,
    VersionPublished,
)
from events.kinds.daemon import (
    DaemonHeld,
    DaemonStarted,
    DaemonStopped,
    HomeCreated,
    JournalRepaired,
    LeftoverDeleted,
    OrphanEnded,
    OverheadMeasured,
    PauseRequested,
    Resumed,
    StopRequested,
)
from events.kinds.disk import (
    StorageExhausted,
    StorageFreed,
    StorageLow,
    StorageRecovered,
)
from events.kinds.evaluation import (
    EvaluationAbandoned,
    EvaluationDone,
    JobEvaluated,
    TasksEvaluated,
    VersionEvaluated,
    VersionEvaluationFailed,
    VersionEvaluationRequested,
    VersionEvaluationStarted,
    VersionHeld,
    VersionPromoted,
)
from events.kinds.head import CheckpointRestored, HeadMoved
from events.kinds.jobs import (
    FileDuplicate,
    FileEnqueued,
    JobFailed,
    JobHeld,
    JobMoved,
    JobRejected,
    JobReleased,
    JobRemoved,
    JobRetried,
    JobSkipped,
    JobSkipRequested,
    JobTrained,
    RejectedFileMoved,
)
from events.kinds.memory import MemoryLow, MemoryRecovered
from events.kinds.recovery import (
    BatchSkipped,
    CheckpointQuarantined,
    DivergenceDetected,
    MicrobatchSplit,
)
from events.kinds.retention import (
    BackupCreated,
    BackupDeleted,
    CheckpointPruned,
    DeletedBy,
    VersionDeleted,
)
from events.kinds.samples import (
    SamplesAbandoned,
    SamplesFailed,
    SamplesGenerated,
    SamplesPutOff,
    SamplesRequested,
)
from events.kinds.self_correction import (
    SelfCorrectionAbandoned,
    SelfCorrectionAnswered,
    SelfCorrectionFailed,
    SelfCorrectionFileQueued,
    SelfCorrectionFileStarted,
    SelfCorrectionPutOff,
    SelfCorrectionResumed,
    SelfCorrectionStopped,
)
from events.kinds.training import (
    CheckpointCommitted,
    JobPrepared,
    StepReached,
    TrainingStarted,
)

__all__ = [
    "EVENT_TYPES",
    "AnyEvent",
    "AttemptFailed",
    "AttemptInterrupted",
    "AttemptStarted",
    "AttemptYielded",
    "BackupCreated",
    "BackupDeleted",
    "BatchSkipped",
    "Change",
    "CheckpointCommitted",
    "CheckpointPruned",
    "CheckpointQuarantined",
    "CheckpointRestored",
    "ConfigChanged",
    "ConfigFixed",
    "ConfigRefused",
    "ConsolidationAborted",
    "ConsolidationBackedUp",
    "ConsolidationCancelled",
    "ConsolidationFinished",
    "ConsolidationMerged",
    "ConsolidationRequested",
    "ConsolidationStarted",
    "ConsolidationVerified",
    "DaemonHeld",
    "DaemonStarted",
    "DaemonStopped",
    "DeletedBy",
    "DivergenceDetected",
    "EvaluationAbandoned",
    "EvaluationDone",
    "Event",
    "FileDuplicate",
    "FileEnqueued",
    "HeadMoved",
    "HomeCreated",
    "JobEvaluated",
    "JobFailed",
    "JobHeld",
    "JobMoved",
    "JobPrepared",
    "JobRejected",
    "JobReleased",
    "JobRemoved",
    "JobRetried",
    "JobSkipRequested",
    "JobSkipped",
    "JobTrained",
    "JournalRepaired",
    "LeftoverDeleted",
    "MemoryLow",
    "MemoryRecovered",
    "MicrobatchSplit",
    "OrphanEnded",
    "OverheadMeasured",
    "PauseRequested",
    "RejectedFileMoved",
    "Resumed",
    "SamplesAbandoned",
    "SamplesFailed",
    "SamplesGenerated",
    "SamplesPutOff",
    "SamplesRequested",
    "SelfCorrectionAbandoned",
    "SelfCorrectionAnswered",
    "SelfCorrectionFailed",
    "SelfCorrectionFileQueued",
    "SelfCorrectionFileStarted",
    "SelfCorrectionPutOff",
    "SelfCorrectionResumed",
    "SelfCorrectionStopped",
    "StepReached",
    "StopRequested",
    "StorageExhausted",
    "StorageFreed",
    "StorageLow",
    "StorageRecovered",
    "TasksEvaluated",
    "TrainingStarted",
    "VersionDeleted",
    "VersionEvaluated",
    "VersionEvaluationFailed",
    "VersionEvaluationRequested",
    "VersionEvaluationStarted",
    "VersionHeld",
    "VersionPromoted",
    "VersionPublished",
]

AnyEvent = (
    HomeCreated
    | DaemonStarted
    | DaemonStopped
    | DaemonHeld
    | PauseRequested
    | Resumed
    | StopRequested
    | JournalRepaired
    | LeftoverDeleted
    | OrphanEnded
    | OverheadMeasured
    | FileEnqueued
    | FileDuplicate
    | JobMoved
    | JobHeld
    | JobReleased
    | JobRemoved
    | JobTrained
    | JobRejected
    | RejectedFileMoved
    | JobSkipRequested
    | JobSkipped
    | JobFailed
    | JobRetried
    | AttemptStarted
    | AttemptInterrupted
    | AttemptYielded
    | AttemptFailed
    | JobPrepared
    | TrainingStarted
    | StepReached
    | CheckpointCommitted
    | EvaluationDone
    | EvaluationAbandoned
    | JobEvaluated
    | SamplesRequested
    | SamplesGenerated
    | SamplesPutOff
    | SamplesFailed
    | SamplesAbandoned
    | SelfCorrectionAnswered
    | SelfCorrectionPutOff
    | SelfCorrectionFailed
    | SelfCorrectionAbandoned
    | SelfCorrectionFileStarted
    | SelfCorrectionFileQueued
    | SelfCorrectionStopped
    | SelfCorrectionResumed
    | MicrobatchSplit
    | BatchSkipped
    | DivergenceDetected
    | CheckpointQuarantined
    | HeadMoved
    | CheckpointRestored
    | CheckpointPruned
    | VersionDeleted
    | BackupCreated
    | BackupDeleted
    | ConsolidationRequested
    | ConsolidationCancelled
    | ConsolidationStarted
    | ConsolidationBackedUp
    | ConsolidationMerged
    | ConsolidationVerified
    | VersionPublished
    | ConsolidationFinished
    | ConsolidationAborted
    | TasksEvaluated
    | VersionEvaluationRequested
    | VersionEvaluationStarted
    | VersionEvaluated
    | VersionEvaluationFailed
    | VersionHeld
    | VersionPromoted
    | StorageExhausted
    | StorageFreed
    | StorageLow
    | StorageRecovered
    | MemoryLow
    | MemoryRecovered
    | ConfigChanged
    | ConfigRefused
    | ConfigFixed
)

EVENT_TYPES: tuple[type[Event], ...] = get_args(AnyEvent)
