"""The doctor's check of the precision: is this processor fast at what the config asks for?"""

from __future__ import annotations

import shutil

from cli.doctor.context import DoctorContext, Finding, Unreadable, passed, warned
from cli.output.event_lines import SLOW_BF16, USE_FP32
from events.values import ARITHMETIC, FP32_INSTEAD
from gpu.runtime.cpu_features import bf16_support, cpu_model


def check(context: DoctorContext) -> Finding:
    """Compare the precision that is asked for with what the processor is fast at. Loads no torch."""
    if context.config.job.training.precision == "fp32":
        return passed("fp32, as [training] precision asks")
    if shutil.which("nvidia-smi") is not None:
        return passed("bf16 on the GPU, if it has bfloat16 (NVIDIA: since Ampere); `doctor --deep` says which is used")
    recorded = _recorded(context)
    support = bf16_support()
    if support == "none" or (support == "unclear" and recorded == FP32_INSTEAD):
        return warned(SLOW_BF16, USE_FP32)
    if support == "unclear":
        known = "" if recorded is None else "; it was bf16 when a job last started"
        return passed(f"bf16 or fp32: the worker measures which is faster on this CPU when a job starts{known}")
    return passed(f"bf16; {cpu_model()} has instructions for it")


def _recorded(context: DoctorContext) -> str | None:
    """Return what the last training on this CPU computed in; None: there was none, or in fp32 as it asked."""
    try:
        environment = context.state.training.environment
    except Unreadable:
        return None
    found = environment.get(ARITHMETIC)
    return found if found != "fp32" and environment.get("cpu") == cpu_model() else None
