"""The worker process: `python -P -m gpu.worker --home HOME --socket PATH`.

It carries out the daemon's orders and reports facts; it decides nothing and never appends to the journal. It ends
when the daemon ends. Every failure is reported by the name of whose fault it was; after one that may have left memory
in disorder the process ends too, and the daemon starts another.
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

from events.messages import CheckpointBad, Consolidate, Failed, Hello, OutOfMemory, Prepare, Rejected, Train, Yielded
from events.values import Failure
from gpu.errors import (
    CheckpointBroken,
    CheckpointForeign,
    DataChanged,
    EncoderLost,
    EvaluationFailed,
    MergeRefused,
    MicrobatchTooLarge,
    ModelUnusable,
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
from gpu.ipc.worker_channel import SocketChannel, leave
from gpu.runtime.driver import is_driver_error
from gpu.runtime.log_lines import JsonLines
from gpu.runtime.parent import die_with_parent
from gpu.runtime.streams import prepare_streams
from journal.failpoints import failpoint
from journal.storage import use_mask_of

if TYPE_CHECKING:
    from gpu.session import Session

ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it, cuBLAS refuses to be deterministic
    "MKL_DYNAMIC": "FALSE",  # MKL would use fewer threads when it sees fit, and another count rounds otherwise
    "OMP_DYNAMIC": "FALSE",  # the same for OpenMP
    # How long a thread of GNU OpenMP spins for the others before it sleeps. The default is milliseconds: beside any
    # other busy process, every thread then burns the time that the one it waits for would need. Ten microseconds
    # cost nothing when the machine is idle.
    "GOMP_SPINCOUNT": "3000",
    "TOKENIZERS_PARALLELISM": "false",  # its thread pool and a fork do not mix, and it would fight over our cores
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # the output is a log file
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Set before torch is imported, which reads some of it only then."""


def main() -> None:
    """Serve one daemon until it is gone."""
    prepare_streams()
    parser = argparse.ArgumentParser(prog="gpu.worker", description="The worker of a keepstep daemon.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    # Ctrl-C on a terminal goes to every process of the group; what it means is the daemon's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # the daemon asks where a worker stands that hangs
    _log_to_the_daemon()
    os.environ.update(ENVIRONMENT)
    home = arguments.home.resolve()
    use_mask_of(home)
    try:
        channel = SocketChannel(connect(arguments.socket))
    except OSError as error:
        sys.exit(f"there is no daemon at {arguments.socket}: {error}")
    channel.tell(Hello(attempt=0, pid=os.getpid()))
    serve(home, channel)


def serve(home: Path, channel: SocketChannel) -> None:
    """Carry out orders for ever."""
    from gpu.session import Session  # torch: some seconds, during which the daemon's end is already being watched

    session = Session(home, channel)
    while True:
        order = channel.next_order()
        if isinstance(order, Prepare | Train | Consolidate):
            carry_out(order, session, channel)
        else:
            failpoint("yield_saved")
            channel.tell(Yielded(attempt=order.attempt))
            failpoint("yielded")


def carry_out(order: Prepare | Train | Consolidate, session: Session, channel: SocketChannel) -> None:
    """Do what `order` says, and report what came of it."""
    try:
        match order:
            case Prepare():
                session.prepare(order)
            case Train():
                session.train(order)
            case Consolidate():
                session.consolidate(order)
    except YieldRequested:
        pass  # the order to yield is answered in its turn
    except RowRejected as error:
        channel.tell(Rejected(attempt=order.attempt, problem=error.problem, line=error.line, message=error.message))
    except CheckpointBroken as error:
        channel.tell(CheckpointBad(attempt=order.attempt, checkpoint=error.checkpoint, problem=error.problem))
    except SuspectBatch as error:
        channel.tell(error.fact)
        session.forget()
    except MicrobatchTooLarge as error:  # within the update: the weights in memory are good for nothing
        channel.tell(
            OutOfMemory(
                attempt=order.attempt,
                global_step=error.global_step,
                step=error.step,
                sequences=error.sequences,
                during="update",
                message=error.reason,
            )
        )
        leave(1)
    except Exception as error:  # noqa: BLE001  # whatever it is, the daemon is told of it, with the trace
        evaluating = isinstance(error, EvaluationFailed)
        failure, orderly = whose_fault(error.cause if isinstance(error, EvaluationFailed) else error)
        logging.info("attempt %d ends: %s", order.attempt, failure)  # its daemon logs the trace
        message = str(error) or type(error).__name__
        channel.tell(
            Failed(
                attempt=order.attempt,
                failure=failure,
                message=message,
                trace="".join(traceback.format_exc()),
                evaluating=evaluating,
            )
        )
        if not orderly:
            leave(1)
        session.forget()


def whose_fault(error: Exception) -> tuple[Failure, bool]:
    """The name of the failure, and whether this process can be trusted to go on."""
    if is_disk_full(error):
        return "disk_full", True
    match error:
        case ModelUnusable() | MergeRefused():
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


def _log_to_the_daemon() -> None:
    """What is logged here, by us or by a library, goes to standard error as lines of the log; the daemon keeps them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines("worker"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.captureWarnings(True)


if __name__ == "__main__":
    main()
