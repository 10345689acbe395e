import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_clock import FakeClock

from vswin_jax.evaluation.evaluate import evaluate
from vswin_jax.runtime import watchdog
from vswin_jax.runtime.watchdog import SLOW_PHASE_FACTOR, Watchdog


class SharedStore:
    """A key-value store in memory that several watchdogs of one test share."""

    def __init__(self, process: int, entries: dict[int, str]) -> None:
        self.process, self.entries = process, entries

    def put(self, value: str) -> None:
        self.entries[self.process] = value

    def get_all(self) -> dict[int, str]:
        return dict(self.entries)


def test_a_hang_is_reported_and_repeated_rarely() -> None:
    clock, reports = FakeClock(), []
    dog = Watchdog(60.0, clock=clock, warn=reports.append)
    dog.enter("steps", 12)
    for _ in range(10):
        clock.now += 6.0
        dog.check()
    assert reports == []
    clock.now += 1.0
    dog.check()
    assert len(reports) == 1
    assert "no progress for 61 s" in reports[0]
    assert "process 0 of 1: steps, step 12" in reports[0]
    # Again after seven times the timeout, not before.
    clock.now += 350.0
    dog.check()
    assert len(reports) == 1
    clock.now += 20.0
    dog.check()
    assert len(reports) == 2
    dog.enter("waiting for data", 13)
    assert reports[2:] == ["process 0 continues: waiting for data, step 13"]
    clock.now += 30.0
    dog.check()
    assert len(reports) == 3


def test_a_slow_phase_has_a_longer_timeout_until_its_first_heartbeat() -> None:
    clock, reports = FakeClock(), []
    dog = Watchdog(60.0, clock=clock, warn=reports.append)
    dog.enter("evaluating", 5, SLOW_PHASE_FACTOR)
    clock.now += 60.0 * SLOW_PHASE_FACTOR
    dog.check()
    assert reports == []
    dog.heartbeat()
    clock.now += 61.0
    dog.check()
    assert len(reports) == 1


def test_the_stack_of_a_blocked_thread_is_reported() -> None:
    """A real thread that waits for ever, as for a batch that never comes."""
    reports: list[str] = []
    reported, released = threading.Event(), threading.Event()

    def warn(text: str) -> None:
        reports.append(text)
        reported.set()

    def waits_for_a_batch_that_never_comes() -> None:
        released.wait()

    def main() -> None:
        with Watchdog(0.2, warn=warn) as dog:
            dog.enter("waiting for data", 7)
            waits_for_a_batch_that_never_comes()

    blocked = threading.Thread(target=main)
    blocked.start()
    assert reported.wait(60)
    released.set()
    blocked.join()
    assert "process 0 of 1: waiting for data, step 7" in reports[0]
    assert "waits_for_a_batch_that_never_comes" in reports[0]
    assert "released.wait()" in reports[0]
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_zero_watches_nothing() -> None:
    with Watchdog(0.0) as dog:
        dog.enter("steps", 1)
        assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_each_process_reports_the_positions_of_all() -> None:
    """Process 1 waits for data, so process 0 waits in the step; process 2 is dead."""
    clock, reports = FakeClock(), []
    entries: dict[int, str] = {}
    more: dict[str, Any] = {"processes": 3, "clock": clock, "warn": reports.append}
    dogs = [Watchdog(60.0, store=SharedStore(n, entries), process=n, **more) for n in range(2)]
    dogs[0].enter("steps", 12)
    dogs[1].enter("waiting for data", 12)
    clock.now += 20.0
    for dog in dogs:
        dog.check()
    assert entries == {}
    for _ in range(3):
        clock.now += 15.0
        for dog in dogs:
            dog.check()
    assert len(reports) == 2
    lines = reports[0].splitlines()[1:4]
    assert lines == [
        "  process 0 of 3: steps, step 12",
        "  process 1 of 3: waiting for data, step 12, for 50 s",
        "  process 2 of 3: making progress, or not running",
    ]


def test_each_batch_of_an_evaluation_gives_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeats: list[bool] = []
    monkeypatch.setattr(watchdog, "heartbeat", lambda: heartbeats.append(True))
    batches = [
        {
            "id": np.int32([index]),
            "label": np.int32([0]),
            "mask": np.ones(1, np.float32),
        }
        for index in range(3)
    ]

    @jax.jit
    def step(params: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        return {"probabilities": jnp.ones((1, 2)), "loss": jnp.zeros(1)}

    evaluate(step, None, batches, num_examples=3, place=dict)
    assert len(heartbeats) == 3


TWO = """
import logging, sys, threading, time
import jax
index, address = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(address, 2, index)
from vswin_jax.runtime import watchdog
reported = threading.Event()
def warn(text):
    print(text, flush=True)
    if "process %d of 2: " % (1 - index) in text and "not running" not in text:
        reported.set()
with watchdog.create_watchdog(1.0, warn=warn) as dog:
    dog.enter(("steps", "waiting for data")[index], 3)
    assert reported.wait(200)
# Process 0 runs the service.
jax.distributed.shutdown()
"""


def test_two_real_processes_report_each_other() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    commands = [[sys.executable, "-c", TWO, str(n), address] for n in range(2)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    printed, errors = zip(*(process.communicate(timeout=240) for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "process 1 of 2: waiting for data, step 3, for" in printed[0]
    assert "process 0 of 2: steps, step 3, for" in printed[1]
