"""`keepstep run`: a banner, the daemon with its live bar, and a summary."""

from __future__ import annotations

from cli.commands.common import read_state
from cli.config.pinning import unpinned_note
from cli.config.schema import Config, load_config
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.output.run_screen import RunScreen
from cli.output.terminal import say
from cli.status.machine import machine_now
from cli.supervision.supervisor import supervise
from cli.supervision.watchdog import run_daemon
from cli.text import printable
from journal.errors import JournalError


def run_here(home: Home, *, until_idle: bool, supervised: bool, worker_module: str = "gpu.worker") -> int:
    """Run the daemon of `home` and return its exit code. Raises as `Daemon.run` and `supervise`."""
    if note := unpinned_note(home):
        say(note)
    if supervised:  # the child prints the banner and the summary
        return supervise(home, until_idle=until_idle, write=say)
    config = load_config(home.config, storage=home.storage)
    if not daemon_is_alive(home):  # else the daemon refuses to start
        say(banner(home, config), flush=True)
    screen = RunScreen()
    try:
        return run_daemon(home, until_idle=until_idle, write=screen.write, worker_module=worker_module, screen=screen)
    finally:
        screen.close()
        if summary := screen.summary():
            say(summary, indent=12)


def banner(home: Home, config: Config) -> str:
    """The first lines of a run: home, model, method, device, queue."""
    import time

    model, method = config.job.model, config.job.method
    revision = f" at {model.revision[:12]}" if model.revision else ""
    rank = f", rank {method.r}" if hasattr(method, "r") else ""
    rows = {
        "home": str(home.root),
        "model": f"{model.path}{revision}",
        "method": f"{method.__struct_config__.tag}{rank}",
        "device": _device(home),
        "queue": _queue(home),
        "times": f"local ({time.strftime('%Z')}); Ctrl-C commits a checkpoint and stops",
    }
    return "\n".join(f"{name:<8}{printable(text)}" for name, text in rows.items())


def _device(home: Home) -> str:
    machine = machine_now(home, alive=False)
    if machine is None:
        return "not known"
    return ", ".join(gpu.name for gpu in machine.gpus) or f"CPU, {machine.cores} cores"


def _queue(home: Home) -> str:
    try:
        state = read_state(home)
    except JournalError:
        return "not known: the journal cannot be read"  # the daemon repairs a torn end, or reports what is wrong
    job, waiting = state.training.current, len(state.queue) - state.queue.held
    started = f"{job.name} is in progress, at step {job.committed_step}; " if job is not None else ""
    return f"{started}{waiting} file{'' if waiting == 1 else 's'} waiting"
