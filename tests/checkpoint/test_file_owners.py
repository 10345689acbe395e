"""Checkpoints of a user who has no entry in the passwd file, in a real process of such a user."""

from pathlib import Path

from unknown_user import run_as_unknown_user

from vswin_jax.checkpoint import load_for_inference

PROGRAM = """
import os, sys
import jax.numpy as jnp
from etils import epath
from vswin_jax.checkpoint import Checkpoints, load_for_inference

with Checkpoints(sys.argv[1]) as checkpoints:
    state = {"params": {"kernel": jnp.arange(4.0)}}
    checkpoints.save(3, state, {"label_names": ["up"]})
with Checkpoints(sys.argv[1]) as checkpoints:
    restored, metadata = checkpoints.restore_latest(state)
params, _ = load_for_inference(sys.argv[1])
found = epath.Path(sys.argv[1]).stat()
print(metadata["step"], restored["params"]["kernel"], params["kernel"])
print(os.getuid(), found.owner, found.group, found.is_directory, found.mtime > 0)
"""


def test_a_user_without_a_name_saves_and_restores(tmp_path: Path) -> None:
    done = run_as_unknown_user(["-c", PROGRAM, tmp_path / "checkpoints"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3 [0. 1. 2. 3.] [0. 1. 2. 3.]",
        "12345 12345 12345 True True",
    ]
    params, metadata = load_for_inference(tmp_path / "checkpoints")
    assert params["kernel"].tolist() == [0, 1, 2, 3]
    assert metadata["label_names"] == ["up"]
