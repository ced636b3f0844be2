"""The machine is detected without torch, and a driver that does not work holds nothing up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.machine import detect
from cli.machine.detect import NO_BUILD_FOR_GPUS, Gpu, detect_machine, local_zone, parse_gpus, visible_gpus

CARDS = "NVIDIA H100 80GB HBM3, 81559, 9.0\nTesla T4, 15360, 7.5\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `nvidia-smi` that lists two GPUs, for a torch that is built for CUDA."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{CARDS}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(detect, "torch_has_cuda", lambda: True)
    return program


def test_first_visible_gpu_is_the_one_that_training_uses(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = detect_machine().gpu
    assert found is not None
    assert (found.name, found.has_bf16) == ("NVIDIA H100 80GB HBM3", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = detect_machine().gpu
    assert found is not None
    assert (found.name, found.has_bf16) == ("Tesla T4", False)


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("exec sleep 60", "does not answer"),
        ("echo 'Driver/library version mismatch'; exit 18", "fails: Driver/library version mismatch"),
        ("exit 9", "fails: no output"),
    ],
)
def test_driver_that_does_not_work_is_named_and_the_cpu_is_used(
    driver: Path, monkeypatch: pytest.MonkeyPatch, script: str, note: str
) -> None:
    monkeypatch.setattr(detect, "NVIDIA_SMI_TIMEOUT_S", 0.5)
    driver.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    found = detect_machine()
    assert found.gpu is None
    assert note in found.note


def test_torch_without_cuda_and_hidden_gpus_are_named(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "torch_has_cuda", lambda: False)
    assert detect_machine()[2:] == (None, detect_machine().has_bitsandbytes, NO_BUILD_FOR_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every GPU" in detect_machine().note


def test_visible_gpus_are_those_that_cuda_would_use() -> None:
    first, second = parse_gpus(CARDS)
    assert visible_gpus((first, second), "1,0") == (second, first)
    assert visible_gpus((first, second), "5,0") == ()
    assert visible_gpus((first, second), "0,-1,1") == (first,)
    assert visible_gpus((first, second), "GPU-8a2f") == (first,)


def test_gpu_that_does_not_report_its_memory_is_left_out() -> None:
    assert parse_gpus("NVIDIA GB10, [N/A], 12.1\n\nOld, 512, [N/A]") == (Gpu("Old", 512 * 2**20, None),)


@pytest.mark.parametrize(
    ("tz", "link", "name", "zone"),
    [
        ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "Europe/Berlin"),
        (":Europe/Berlin", "", "", "Europe/Berlin"),
        ("CET-1CEST", "", "", "UTC"),
        ("", "America/New_York", "Asia/Tokyo", "America/New_York"),
        ("", "", "Asia/Tokyo\n", "Asia/Tokyo"),
        ("", "Etc/UTC", "", "UTC"),
        ("", "", "nowhere", "UTC"),
    ],
)
def test_time_zone_is_the_machine_s_own(tmp_path: Path, tz: str, link: str, name: str, zone: str) -> None:
    (tmp_path / "localtime").symlink_to(f"/usr/share/zoneinfo/{link}" if link else "/nowhere")
    if name:
        (tmp_path / "timezone").write_text(name, encoding="utf-8")
    found = local_zone({"TZ": tz}, tmp_path / "localtime", tmp_path / "timezone")
    assert found == zone
