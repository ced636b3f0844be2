"""The worker process: `python -P -m gpu.worker --home HOME --socket PATH`.

It carries out the daemon's orders and reports facts; it decides nothing and never appends to the journal. It ends
when the daemon ends. Every failure is reported by its cause. After a failure that may have damaged its memory the
process ends, and the daemon starts another one.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from events.messages import (
    CheckpointBad,
    Consolidate,
    EvaluateVersion,
    Failed,
    Hello,
    OutOfMemory,
    Prepare,
    Rejected,
    Train,
    Yielded,
)
from events.values import Failure
from gpu.errors import (
    ArtifactBroken,
    CheckpointBroken,
    CheckpointForeign,
    DataChanged,
    EncoderLost,
    MergeRefused,
    MicrobatchTooLarge,
    ModelUnusable,
    PhaseFailed,
    PreflightFailed,
    RowRejected,
    StorageFailed,
    SuspectBatch,
    TrainingDiverged,
    YieldRequested,
    is_disk_full,
    is_out_of_memory,
    nondeterministic_operation,
)
from gpu.ipc.connection import connect
from gpu.ipc.worker_channel import SocketChannel, exit_process
from gpu.runtime.driver import is_driver_error
from gpu.runtime.log_lines import JsonLines
from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import prepare_streams
from journal.failpoints import failpoint
from journal.storage import set_file_mask

if TYPE_CHECKING:
    from gpu.session import Session

ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it, cuBLAS refuses to be deterministic
    "MKL_DYNAMIC": "FALSE",  # MKL would reduce the threads by load, and another number of threads rounds differently
    "OMP_DYNAMIC": "FALSE",  # the same for OpenMP
    # How long a thread of GNU OpenMP spins before it sleeps. By default it spins for milliseconds. Next to another busy
    # process, the waiting threads then take the time that the last one needs. Ten microseconds cost nothing on an
    # idle machine.
    "GOMP_SPINCOUNT": "3000",
    "TOKENIZERS_PARALLELISM": "false",  # its thread pool does not survive a fork, and would compete for the cores
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the output is a log file
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Set before torch is imported: torch reads some of them only then."""


def main() -> None:
    """Serve one daemon until it is gone."""
    prepare_streams()
    parser = argparse.ArgumentParser(prog="gpu.worker", description="The worker of a keepstep daemon.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    # Ctrl-C on a terminal goes to every process of the group. The daemon decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the daemon asks a worker that hangs for its stacks
    _set_up_logging()
    os.environ.update(ENVIRONMENT)
    home = arguments.home.resolve()
    set_file_mask(home)
    try:
        channel = SocketChannel(connect(arguments.socket))
    except OSError as error:
        sys.exit(f"there is no daemon at {arguments.socket}: {error}")
    channel.send(Hello(attempt=0, pid=os.getpid()))
    serve(home, channel)


def serve(home: Path, channel: SocketChannel) -> None:
    """Carry out orders until the process ends."""
    from gpu.session import Session  # imports torch: seconds, in which the socket is already watched

    session = Session(home, channel)
    while True:
        order = channel.next_order()
        if isinstance(order, Prepare | Train | Consolidate | EvaluateVersion):
            run_order(order, session, channel)
        else:
            failpoint("yield_saved")
            channel.send(Yielded(attempt=order.attempt))
            failpoint("yielded")


def run_order(order: Prepare | Train | Consolidate | EvaluateVersion, session: Session, channel: SocketChannel) -> None:
    """Carry out `order` and report its outcome."""
    try:
        match order:
            case Prepare():
                session.prepare(order)
            case Train():
                session.train(order)
            case Consolidate():
                session.consolidate(order)
            case EvaluateVersion():
                session.evaluate_version(order)
    except YieldRequested:
        pass  # the order to yield is queued and answered next
    except RowRejected as error:
        channel.send(Rejected(attempt=order.attempt, problem=error.problem, line=error.line, message=error.message))
    except CheckpointBroken as error:
        channel.send(CheckpointBad(attempt=order.attempt, checkpoint=error.checkpoint, problem=error.problem))
    except SuspectBatch as error:
        channel.send(error.fact)
        session.discard()
    except MicrobatchTooLarge as error:  # within the update: the weights in memory are half updated
        channel.send(
            OutOfMemory(
                attempt=order.attempt,
                global_step=error.global_step,
                step=error.step,
                sequences=error.sequences,
                during="update",
                message=error.reason,
            )
        )
        exit_process(1)
    except Exception as error:  # noqa: BLE001  # every failure is reported, with its traceback
        failure, is_usable = classify_failure(error.cause if isinstance(error, PhaseFailed) else error)
        logging.info("attempt %d ends: %s", order.attempt, failure)  # the daemon logs the traceback
        message = str(error) or type(error).__name__
        channel.send(
            Failed(
                attempt=order.attempt,
                failure=failure,
                message=message,
                trace="".join(traceback.format_exc()),
                phase=error.phase if isinstance(error, PhaseFailed) else None,
            )
        )
        if not is_usable:
            exit_process(1)
        session.discard()


def classify_failure(error: Exception) -> tuple[Failure, bool]:
    """Return the kind of the failure, and True if this process can be used again."""
    if is_disk_full(error):
        return "disk_full", True
    match error:
        case ModelUnusable() | MergeRefused() | ArtifactBroken():
            return "model", True
        case PreflightFailed():
            return "preflight", True
        case CheckpointForeign():
            return "checkpoint", True
        case DataChanged():
            return "data", True
        case EncoderLost():
            return "killed", True
        case StorageFailed():
            return "storage", True
        case TrainingDiverged():
            return "loss", True
    if nondeterministic_operation(error):
        return "model", True
    if is_out_of_memory(error):
        return "out_of_memory", False
    if is_driver_error(error):
        return "driver", False
    return ("storage", False) if isinstance(error, OSError) else ("code", False)


def _set_up_logging() -> None:
    """Write log records, those of libraries too, to standard error as `LogLine`s. The daemon stores them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines("worker"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.captureWarnings(True)


if __name__ == "__main__":
    main()
