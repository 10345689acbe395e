"""Damaged and interrupted checkpoints are reported and passed over, and so are full disks."""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from forked_process import forked_commands
from jax.sharding import SingleDeviceSharding

from vswin_jax import main, predict
from vswin_jax.checkpoint import Checkpoints, latest_intact, load_for_inference
from vswin_jax.checkpoint.reading import saved_tree
from vswin_jax.checkpoint.step_directories import find_damage
from vswin_jax.errors import InputError
from vswin_jax.reporting.metrics_file import read_metrics
from vswin_jax.weights.files.orbax_directory import write_workdir

if TYPE_CHECKING:
    from conftest import Run

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
# The steps that the tiny run keeps: the newest, which is also the best, and the one before it.
NEWEST, OLDER = 40, 35


def data_file(step: Path) -> Path:
    """Return the largest file of a step, which holds arrays."""
    return max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)


def flip(path: Path, position: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 0x10
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def turn_into_a_file(step: Path) -> None:
    shutil.rmtree(step)
    step.write_text("40")


def unmark_and_forget(step: Path) -> None:
    """Leave a step as a writer that was interrupted, where a marker file completes a step."""
    (step / "manifest.json").unlink()
    (step / "commit_success.txt").unlink()


CONTENT = "does not have the content that was saved"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "data cut short": (lambda step: cut(data_file(step), 100), "has 100 bytes instead of"),
    "data emptied": (lambda step: cut(data_file(step), 0), "has 0 bytes instead of"),
    "data deleted": (lambda step: data_file(step).unlink(), "is missing"),
    "byte of the data flipped": (lambda step: flip(data_file(step)), CONTENT),
    "byte of the tree flipped": (lambda step: flip(step / "state" / "_METADATA"), CONTENT),
    "byte of Orbax's notes flipped": (lambda step: flip(step / "_CHECKPOINT_METADATA", 9), CONTENT),
    "index cut short": (lambda step: cut(step / "state/manifest.ocdbt", 20), "has 20 bytes"),
    "another shape": (
        lambda step: replace(
            step / "state" / "_METADATA", '"write_shape": [4]', '"write_shape": [8]'
        ),
        f"'state/_METADATA' {CONTENT}",
    ),
    "garbage for JSON": (
        lambda step: (step / "metadata/metadata").write_bytes(b"\0"),
        "has 1 byte",
    ),
    "garbage for the score": (lambda step: flip(step / "metrics" / "metrics", 0), CONTENT),
    "no state": (lambda step: shutil.rmtree(step / "state"), "is missing"),
    "no mark": (
        lambda step: (step / "commit_success.txt").unlink(),
        "'commit_success.txt' is missing",
    ),
    "no manifest": (lambda step: (step / "manifest.json").unlink(), "'manifest.json' is missing"),
    "manifest cut short": (lambda step: cut(step / "manifest.json", 99), "is not what was saved"),
    "neither mark nor manifest": (unmark_and_forget, "'manifest.json' is missing"),
    "empty directory": (empty, "it is an empty directory"),
    "file for a directory": (turn_into_a_file, "it is a file, not a directory"),
}


@pytest.fixture
def saved(tiny_run: "Run", tmp_path: Path) -> Path:
    """Copy the tiny run's checkpoints, to be damaged."""
    return Path(shutil.copytree(tiny_run.workdir / "checkpoints", tmp_path / "checkpoints"))


@pytest.fixture(scope="module")
def target(tiny_run: "Run") -> Any:
    on = SingleDeviceSharding(jax.devices()[0])
    tree = saved_tree(epath.Path(tiny_run.workdir / "checkpoints" / str(OLDER)))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on), tree
    )


@pytest.fixture(scope="module")
def states(
    tiny_run: "Run", target: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Any]:
    """Restore the state of each step, from a directory with that step alone."""
    states = {}
    for step in (OLDER, NEWEST):
        alone = tmp_path_factory.mktemp("alone")
        shutil.copytree(tiny_run.workdir / "checkpoints" / str(step), alone / str(step))
        with Checkpoints(alone) as checkpoints:
            states[step] = checkpoints.restore_latest(target)[0]
    return states


def assert_equal(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def content_of(root: Path) -> dict[str, bytes]:
    files = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def names(directory: Path) -> list[str]:
    return sorted(child.name for child in directory.iterdir())


def test_the_run_keeps_two_steps_that_differ(tiny_run: "Run", states: dict[int, Any]) -> None:
    assert names(tiny_run.workdir / "checkpoints") == [str(OLDER), str(NEWEST)]
    with pytest.raises(AssertionError):
        assert_equal(states[OLDER], states[NEWEST])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_step_is_logged_and_the_one_before_is_used(
    fault: str,
    saved: Path,
    target: Any,
    states: dict[int, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    do, found = FAULTS[fault]
    do(saved / str(NEWEST))
    as_it_was = content_of(saved / str(NEWEST))
    with Checkpoints(saved) as checkpoints:
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert found in record.getMessage()
        assert record.getMessage().startswith(
            f"The checkpoint of step 40 in '{saved}' is damaged ("
        )
        assert record.getMessage().endswith(
            "): it is kept as '40.damaged', and the run resumes from step 35."
        )
        restored, metadata = checkpoints.restore_latest(target)
        assert_equal(restored, states[OLDER])
        assert metadata["step"] == OLDER
        assert content_of(saved / "40.damaged") == as_it_was
        assert checkpoints.save(NEWEST, restored, metadata, 0.5)
    assert names(saved) == ["35", "40", "40.damaged"]
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest_step() == checkpoints.best_step() == NEWEST
        assert_equal(checkpoints.restore_latest(target)[0], states[OLDER])
    assert len(caplog.records) == 1


def test_the_files_of_a_killed_save_and_a_lock_are_logged_and_harmless(
    saved: Path, target: Any, states: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(saved / "40" / "state", saved / "47.orbax-checkpoint-tmp" / "state")
    (saved / "40" / "state" / "manifest.ocdbt.__lock").touch()
    (saved / ".lock").touch()
    with Checkpoints(saved) as checkpoints:
        assert_equal(checkpoints.restore_latest(target)[0], states[NEWEST])
        checkpoints.save(47, states[NEWEST], {})
    assert [record.getMessage() for record in caplog.records] == [
        f"The save of step 47 in '{saved}' was interrupted: its files are deleted, and the run "
        f"resumes from step 40.",
        f"'state/manifest.ocdbt.__lock' in '{saved / '40'}' is not a file of its save: it is "
        f"ignored.",
    ]
    assert names(saved) == [".lock", "40", "47"]


@contextlib.contextmanager
def without_root_privileges() -> Iterator[None]:
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_without_read_permission_is_damage(saved: Path) -> None:
    # Not in tmp_path, which only its owner may enter.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        step = Path(shutil.copytree(saved / "40", Path(directory) / "40"))
        (step / "state" / "manifest.ocdbt").chmod(0)
        with without_root_privileges():
            found = find_damage(epath.Path(step), thorough=True)
    assert found == "'state/manifest.ocdbt' cannot be read: Permission denied"


def test_the_quick_check_skips_the_content_of_large_files(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=100_000)
    save(tmp_path, {1: None}, noise)
    flip(data_file(tmp_path / "1"))
    assert find_damage(epath.Path(tmp_path / "1"), thorough=False) is None
    assert CONTENT in find_damage(epath.Path(tmp_path / "1"), thorough=True)
    flip(tmp_path / "1" / "state" / "_METADATA")
    assert "_METADATA" in find_damage(epath.Path(tmp_path / "1"), thorough=False)


def save(
    directory: Path, scores: dict[int, float | None], kernel: Any = 1.0, max_to_keep: int = 2
) -> None:
    with Checkpoints(directory, max_to_keep=max_to_keep) as checkpoints:
        for step, score in scores.items():
            state = {"params": {"kernel": jnp.asarray(kernel) * step}}
            assert checkpoints.save(step, state, {"label_names": ["a"]}, score)


TOY = {"params": {"kernel": jax.ShapeDtypeStruct((), jnp.float32)}}


def test_several_damaged_steps_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, {1: 0.1, 2: 0.2, 3: 0.9, 4: 0.3, 5: None, 6: None}, max_to_keep=4)
    assert names(tmp_path) == ["3", "4", "5", "6"]
    (tmp_path / "6.damaged").mkdir()
    empty(tmp_path / "6")
    flip(data_file(tmp_path / "5"))
    # Orbax reads the scores of all steps, and fails if one is not JSON.
    flip(tmp_path / "3" / "metrics" / "metrics", 0)
    with Checkpoints(tmp_path, max_to_keep=4) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 4)
        restored, _ = checkpoints.restore_latest(TOY)
        assert restored["params"]["kernel"] == 4
    assert names(tmp_path) == ["3.damaged", "4", "5.damaged", "6.damaged", "6.damaged-2"]
    messages = [record.getMessage() for record in caplog.records]
    assert [text.split(" in ")[0][-1] for text in messages] == ["6", "5", "3"]
    assert all("resumes from step 4" in text for text in messages)
    # Only the remaining steps count for `max_to_keep`.
    save(tmp_path, {5: 0.1, 6: 0.2, 7: None})
    assert names(tmp_path) == ["3.damaged", "4", "5.damaged", "6", "6.damaged", "6.damaged-2", "7"]


def test_a_run_never_starts_over_beside_damaged_steps(tmp_path: Path) -> None:
    save(tmp_path, {1: 0.5, 2: None})
    cut(data_file(tmp_path / "1"), 3)
    empty(tmp_path / "2")
    for _ in range(2):
        with pytest.raises(InputError) as refusal:
            Checkpoints(tmp_path)
        assert f"No checkpoint in '{tmp_path}' is intact (step 2: it is an empty" in str(
            refusal.value
        )
        assert "has 3 bytes instead of" in str(refusal.value)
        assert str(refusal.value).endswith("or start over in another workdir.")
        assert names(tmp_path) == ["1", "2"]
    with pytest.raises(InputError, match=r"No checkpoint in .* is intact"):
        latest_intact(tmp_path)
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "2").rename(tmp_path / "2.damaged")
    with pytest.raises(InputError, match=r"is intact \(2\.damaged\)"):
        Checkpoints(tmp_path)


def test_steps_without_manifests_of_older_versions_are_read(
    saved: Path, target: Any, states: dict[int, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for step in ("35", "40"):
        (saved / step / "manifest.json").unlink()
        replace(saved / step / "metadata" / "metadata", ', "has_manifest": true', "")
    with Checkpoints(saved) as checkpoints:
        assert_equal(checkpoints.restore_latest(target)[0], states[NEWEST])
    assert load_for_inference(saved)[1]["step"] == NEWEST
    assert not caplog.records
    cut(saved / "40" / "metrics" / "metrics", 5)
    with Checkpoints(saved) as checkpoints:
        assert_equal(checkpoints.restore_latest(target)[0], states[OLDER])
    assert "'metrics/metrics' is not what was saved" in caplog.text


def test_a_reader_uses_no_other_step_than_the_requested_one(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip(data_file(saved / "40"))
    before = content_of(saved)
    for path, which in ((saved / "40", "latest"), (saved, "best"), (saved.parent, "best")):
        with pytest.raises(
            InputError, match=r"40'? is damaged \('state/.*' does not have the content"
        ):
            load_for_inference(path, which)
    assert load_for_inference(saved / "35")[1]["step"] == OLDER
    assert not caplog.records
    for path in (saved, saved.parent):
        caplog.clear()
        assert load_for_inference(path)[1]["step"] == OLDER
        assert "is damaged" in caplog.text
        assert "step 35 is used" in caplog.text
    assert latest_intact(saved).name == "35"
    assert content_of(saved) == before
    flip(data_file(saved / "40"))
    flip(saved / "35" / "metadata" / "metadata")
    with pytest.raises(InputError, match=r"cannot be determined.* step 35 is damaged"):
        load_for_inference(saved, "best")


def test_converted_weights_have_a_manifest_too(tmp_path: Path) -> None:
    write_workdir(tmp_path, {"kernel": np.arange(99.0)}, {"label_names": ["a"]})
    step = tmp_path / "checkpoints" / "0"
    assert find_damage(epath.Path(step), thorough=True) is None
    flip(step / "state" / "params.kernel" / "0")
    with pytest.raises(InputError, match=r"'state/params.kernel/0' does not have the content"):
        load_for_inference(tmp_path)


HOST = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from vswin_jax.checkpoint import Checkpoints

directory, address, rank = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, 2, int(rank))
sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))

def state(step):
    values = step * np.arange(8000, dtype=np.float32)
    return {"params": jax.make_array_from_callback((8000,), sharding, lambda part: values[part])}

with Checkpoints(directory) as checkpoints:
    restored = checkpoints.restore_latest(state(0))
    if restored is None:
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), {})
    else:
        (mine,) = restored[0]["params"].addressable_shards
        print(restored[1]["step"], float(mine.data[1]))
"""


def on_two_hosts(directory: Path) -> list[tuple[int, str, str]]:
    """Run two processes; return each one's exit status, last printed line and log."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", HOST, str(directory), address]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with forked_commands():
        hosts = [
            subprocess.Popen([*command, str(rank)], cwd=ROOT, env=environment, **pipes)
            for rank in range(2)
        ]
    outputs = [host.communicate(timeout=120) for host in hosts]
    return [
        (host.returncode, printed.rstrip().rpartition("\n")[2], logged)
        for host, (printed, logged) in zip(hosts, outputs, strict=True)
    ]


def test_all_hosts_pass_over_a_step_in_which_a_file_of_one_is_damaged(tmp_path: Path) -> None:
    assert [status for status, *_ in on_two_hosts(tmp_path)] == [0, 0]
    (of_the_second,) = (tmp_path / "3" / "state" / "ocdbt.process_1" / "d").iterdir()
    flip(of_the_second)
    first, second = on_two_hosts(tmp_path)
    # The second host has the second half of the array.
    assert (first[:2], second[:2]) == ((0, "2 2.0"), (0, "2 8002.0"))
    assert f"ocdbt.process_1/d/{of_the_second.name}' {CONTENT}" in first[2]
    assert "is damaged" not in second[2]
    assert names(tmp_path) == ["2", "3.damaged"]


def run(*arguments: str) -> tuple[int, str, str]:
    printed, logged = StringIO(), StringIO()
    with redirect_stdout(printed), redirect_stderr(logged):
        status = main.run(arguments)
    return status, printed.getvalue(), logged.getvalue()


@pytest.fixture
def workdir(tiny_run: "Run", tmp_path: Path) -> Path:
    """Copy the tiny run without its videos."""
    ignore = shutil.ignore_patterns("moving_shapes", "*.png")
    return Path(shutil.copytree(tiny_run.workdir, tmp_path / "run", ignore=ignore))


@pytest.fixture
def again(tiny_run: "Run", tiny_arguments: tuple[str, ...]) -> tuple[str, ...]:
    return (*tiny_arguments, f"--config.data.root={tiny_run.workdir / 'moving_shapes'}")


def curve(workdir: Path, kind: str) -> list[tuple[Any, ...]]:
    fields = ("step", "loss", "top1", *(("grad_norm",) if kind == "train" else ()))
    entries = read_metrics(workdir / "metrics.jsonl", kind)
    return [tuple(entry[field] for field in fields) for entry in entries]


def test_a_run_that_resumes_before_a_damaged_step_equals_the_undisturbed_one(
    tiny_run: "Run", again: tuple[str, ...], workdir: Path
) -> None:
    flip(data_file(workdir / "checkpoints" / "40"))
    status, _, logged = run(*again, f"--workdir={workdir}")
    assert status == 0, logged
    assert "is kept as '40.damaged', and the run resumes from step 35." in logged
    assert "resuming after step 35" in logged
    assert curve(workdir, "train") == curve(tiny_run.workdir, "train")
    assert curve(workdir, "eval") == curve(tiny_run.workdir, "eval")
    ours, theirs = (
        load_for_inference(w / "checkpoints/40")[0] for w in (workdir, tiny_run.workdir)
    )
    assert_equal(ours, theirs)


def test_an_evaluation_logs_which_step_it_scores(again: tuple[str, ...], workdir: Path) -> None:
    flip(data_file(workdir / "checkpoints" / "40"))
    before = names(workdir / "checkpoints")
    evaluating = (*again, f"--workdir={workdir}", "--mode=evaluate")
    status, _, logged = run(*evaluating, "--config.eval.checkpoint=best")
    assert status == 2
    assert logged.count("\n") == 1
    assert logged.startswith("error: ")
    assert "step 40 is damaged" in logged
    status, _, logged = run(*evaluating)
    assert status == 0, logged
    assert "The checkpoint of step 40" in logged
    assert "step 35 is used." in logged
    summary = json.loads((workdir / "evaluation" / "summary.json").read_text())
    assert summary["step"] == OLDER
    assert names(workdir / "checkpoints") == before


def test_prediction_refuses_a_damaged_step_that_is_named(
    tiny_run: "Run", workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = next((tiny_run.workdir / "moving_shapes" / "test").glob("*/*.mp4"))
    flip(data_file(workdir / "checkpoints" / "40"))
    assert predict.run([str(video), f"--checkpoint={workdir / 'checkpoints' / '40'}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "/40' is damaged ('state/" in captured.err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 4 MB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(mount_point)], capture_output=True
    )
    if done.returncode:
        pytest.skip("only root may mount a disk")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Write a file that leaves `left` bytes of the disk free."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    cut(filler, max(filler.stat().st_size - left, 0))
    return filler


@pytest.fixture
def disk(workdir: Path, small_disk: Path) -> Path:
    """Move the tiny run's workdir, as it was before its last save, to a small disk."""
    shutil.rmtree(workdir / "checkpoints" / str(NEWEST))
    return Path(shutil.move(workdir, small_disk / "run"))


def test_a_disk_too_full_for_a_checkpoint_ends_the_run_in_one_sentence(
    tiny_run: "Run", again: tuple[str, ...], disk: Path
) -> None:
    older = content_of(disk / "checkpoints" / "35")
    filler = fill(disk.parent, left=60_000)
    command = [sys.executable, "-m", "vswin_jax.main", *again, f"--workdir={disk}"]
    # Compiled programs would fill the disk earlier.
    command += ["--config.train.compilation_cache=off"]
    with forked_commands():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    *logged, error = done.stderr.splitlines()
    assert any("step 40/40" in line for line in logged), done.stderr
    assert re.fullmatch(
        rf"error: The disk of '{disk}/checkpoints' is full \(No space left on device; \d+ kB "
        rf"free\): make room there; step 40 \(\d+ kB\) is not saved, what was saved is intact, and "
        rf"the same command resumes from step 35\.",
        error,
    )
    assert names(disk / "checkpoints") == ["35"]
    assert content_of(disk / "checkpoints" / "35") == older
    filler.unlink()
    status, _, logged = run(*again, f"--workdir={disk}")
    assert status == 0, logged
    assert "resuming after step 35" in logged
    assert curve(disk, "train") == curve(tiny_run.workdir, "train")


def test_a_full_disk_is_reported_before_a_run_resumes(again: tuple[str, ...], disk: Path) -> None:
    before = (disk / "metrics.jsonl").read_bytes()
    fill(disk.parent, left=0)
    status, _, logged = run(*again, f"--workdir={disk}")
    assert status == 2
    assert logged.splitlines()[-1] == (
        f"error: Expected --workdir to be a directory that can be written to but '{disk}' is not "
        f"(No space left on device): give another path, or make room on its disk."
    )
    assert (disk / "metrics.jsonl").read_bytes() == before


def test_a_failed_save_is_reported_without_another_save(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = jax.random.normal(jax.random.key(0), (400_000,))
    with Checkpoints(small_disk / "checkpoints", max_to_keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"params": noise * step}, {})
        with pytest.raises(InputError, match=r"step 3 \(2 MB\) is not saved.* from step 2\.$"):
            check_for_a_minute(checkpoints)
    # Nothing is reported twice, and the remaining steps can be resumed from.
    assert capfd.readouterr() == ("", "")
    assert names(small_disk / "checkpoints") == ["1", "2"]
    with Checkpoints(small_disk / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() == 2


def check_for_a_minute(checkpoints: Checkpoints) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        checkpoints.check_for_errors()
        time.sleep(0.01)
