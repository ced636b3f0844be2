"""`keepstep samples now`: journal that a person wants samples at the next step."""

from __future__ import annotations

from contextlib import closing

from cli.config.sample_prompts import check_prompts
from cli.config.schema import Config, load_config
from cli.errors import UserError
from cli.home.event_store import EventStore
from cli.home.identity import daemon_is_alive
from cli.home.paths import Home
from cli.output.terminal import say
from cli.text import printable
from core.commands import RequestSamples


def request_samples(home: Home) -> None:
    """Ask for samples. Raises UserError if there is no prompt, core.errors.Refused if nothing trains."""
    _refuse_without_prompts(home, load_config(home.config, storage=home.storage))
    with closing(EventStore.open(home)) as store:
        store.execute(RequestSamples(alive=daemon_is_alive(home)))
        job = store.state.training.current
    name = printable(job.name) if job is not None else "the job"
    say(f"{name}: samples follow the next step; `keepstep samples` shows them")


def _refuse_without_prompts(home: Home, config: Config) -> None:
    data, samples = config.job.data, config.samples
    if samples.prompts == 0:
        raise UserError(
            "[samples] prompts is 0, so there is nothing to ask the model",
            "name some held-out rows or a file: `keepstep config set samples.prompts=3` or `samples.prompts=FILE`",
        )
    if isinstance(samples.prompts, int) and not config.job.evaluation.rows:
        raise UserError(
            "[samples] prompts asks held-out rows, and [evaluation] rows is 0, so keepstep keeps none",
            "name a file of prompts: `keepstep config set samples.prompts=FILE`",
        )
    if isinstance(samples.prompts, int) and not (data.holdout or data.validation):
        raise UserError(
            f"[samples] prompts asks {samples.prompts} held-out rows, and no row is held out",
            "name a file of prompts: `keepstep config set samples.prompts=FILE`; or hold rows out from the next file "
            "on: `keepstep config set data.holdout=0.05`",
        )
    check_prompts(home, samples, data)
