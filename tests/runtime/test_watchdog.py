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

from vswin_jax.evaluation.evaluate import evaluate
from vswin_jax.runtime import watchdog
from vswin_jax.runtime.watchdog import PATIENT, Watchdog


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class SharedBoard:
    """What several watchdogs of one test write, by process."""

    def __init__(self, process: int, entries: dict[int, str]) -> None:
        self.process, self.entries = process, entries

    def write(self, text: str) -> None:
        self.entries[self.process] = text

    def read(self) -> dict[int, str]:
        return dict(self.entries)


def test_says_when_nothing_happens_and_again_rarely() -> None:
    clock, said = Clock(), []
    dog = Watchdog(60.0, clock=clock, say=said.append)
    dog.enter("steps", 12)
    for _ in range(10):
        clock.now += 6.0
        dog.look()
    assert said == []
    clock.now += 1.0
    dog.look()
    assert len(said) == 1
    assert "nothing has happened for 61 s" in said[0]
    assert "process 0 of 1: steps, step 12" in said[0]
    # Seven times the first wait, and not before.
    clock.now += 350.0
    dog.look()
    assert len(said) == 1
    clock.now += 20.0
    dog.look()
    assert len(said) == 2
    dog.enter("waiting for data", 13)
    assert said[2:] == ["process 0 goes on: waiting for data, step 13"]
    clock.now += 30.0
    dog.look()
    assert len(said) == 3


def test_compiling_may_take_longer_until_something_moves() -> None:
    clock, said = Clock(), []
    dog = Watchdog(60.0, clock=clock, say=said.append)
    dog.enter("evaluating", 5, PATIENT)
    clock.now += 60.0 * PATIENT
    dog.look()
    assert said == []
    dog.alive()
    clock.now += 61.0
    dog.look()
    assert len(said) == 1


def test_a_blocked_thread_is_shown_where_it_is() -> None:
    """A real thread that waits for ever, as for a batch that never comes."""
    said: list[str] = []
    heard, released = threading.Event(), threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    def waits_for_a_batch_that_never_comes() -> None:
        released.wait()

    def main() -> None:
        with Watchdog(0.2, say=say) as dog:
            dog.enter("waiting for data", 7)
            waits_for_a_batch_that_never_comes()

    blocked = threading.Thread(target=main)
    blocked.start()
    assert heard.wait(60)
    released.set()
    blocked.join()
    assert "process 0 of 1: waiting for data, step 7" in said[0]
    assert "waits_for_a_batch_that_never_comes" in said[0]
    assert "released.wait()" in said[0]
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_zero_watches_nothing() -> None:
    with Watchdog(0.0) as dog:
        dog.enter("steps", 1)
        assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_each_process_says_where_all_are() -> None:
    """Process 1 waits for data, so process 0 waits in the step; process 2 is dead."""
    clock, said = Clock(), []
    entries: dict[int, str] = {}
    more: dict[str, Any] = {"processes": 3, "clock": clock, "say": said.append}
    dogs = [Watchdog(60.0, board=SharedBoard(n, entries), process=n, **more) for n in range(2)]
    dogs[0].enter("steps", 12)
    dogs[1].enter("waiting for data", 12)
    clock.now += 20.0
    for dog in dogs:
        dog.look()
    assert entries == {}
    for _ in range(3):
        clock.now += 15.0
        for dog in dogs:
            dog.look()
    assert len(said) == 2
    lines = said[0].splitlines()[1:4]
    assert lines == [
        "  process 0 of 3: steps, step 12",
        "  process 1 of 3: waiting for data, step 12, for 50 s",
        "  process 2 of 3: moving, or not there to say",
    ]


def test_each_batch_of_an_evaluation_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    signs: list[bool] = []
    monkeypatch.setattr(watchdog, "alive", lambda: signs.append(True))
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
    assert len(signs) == 3


TWO = """
import logging, sys, threading, time
import jax
index, address = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(address, 2, index)
from vswin_jax.runtime import watchdog
said = threading.Event()
def say(text):
    print(text, flush=True)
    if "process %d of 2: " % (1 - index) in text and "not there" not in text:
        said.set()
with watchdog.of_run(1.0, say=say) as dog:
    dog.enter(("steps", "waiting for data")[index], 3)
    assert said.wait(200)
# Process 0 runs the service.
jax.distributed.shutdown()
"""


def test_two_real_processes_hear_of_each_other() -> None:
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
