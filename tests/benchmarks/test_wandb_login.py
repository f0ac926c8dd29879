"""Weights & Biases: a login counts wherever wandb finds it, and one command uploads what stayed here."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.wandb_results import sync_command
from rfnext.integrations.wandb import init_arguments

pytest.importorskip("wandb")


def test_a_login_in_netrc_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_ERROR_REPORTING", "WANDB_SILENT"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example")
    assert init_arguments(tmp_path)["mode"] == "offline"
    netrc.write_text(f"machine wandb.example\n  login user\n  password {'a' * 40}\n")
    netrc.chmod(0o600)
    assert init_arguments(tmp_path)["mode"] == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert init_arguments(tmp_path)["mode"] == "offline"


def test_one_command_uploads_every_run(tmp_path: Path) -> None:
    """The command as it is printed, with a wandb that says what it is given."""
    folder = tmp_path / "a folder"
    runs = [folder / f"cell{n}/train/wandb/offline-run-{n}" for n in range(3)]
    for run in runs:
        run.mkdir(parents=True)
    program = tmp_path / "bin/wandb"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor one in "$@"; do echo "$one"; done\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    called = subprocess.run(
        ["bash", "-c", sync_command(folder)], capture_output=True, text=True, check=True, env={"PATH": path}
    )
    first, *given = called.stdout.splitlines()
    assert first == "sync"
    assert sorted(given) == sorted(map(str, runs))
