"""Features of windows over whole videos: values, times, a second start, bad videos."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from drawn_videos import DrawnVideo, write, write_broken

import vswin_jax
from vswin_jax import features as features_command
from vswin_jax.data.clips import transforms
from vswin_jax.data.decoding.decode import open_video
from vswin_jax.errors import InputError
from vswin_jax.inference import WindowOptions, features

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with videos of 60 and 30 frames, and a damaged one."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    write(DrawnVideo(count=60, gop=12, b_frames=2), folder / "a")
    write(DrawnVideo(count=30, gop=12), folder / "more" / "b")
    write_broken(folder / "c.mov", count=24, first=12)
    return folder


def test_windows_have_the_features_of_their_clips(
    tiny_run: "Run", videos: Path, tmp_path: Path
) -> None:
    options = {"format": "npy", "windows": WindowOptions(0.5), "batch_size": 2}
    written = features(videos, tiny_run.workdir, tmp_path / "f", **options)
    assert (written.num_videos, written.earlier) == (2, 0)
    assert [Path(bad.name).name for bad in written.unreadable] == ["c.mov"]
    names = sorted(
        str(path.relative_to(tmp_path / "f")) for path in (tmp_path / "f").rglob("*.npy")
    )
    assert names == ["a.npy", "more/b.npy"]
    found = np.load(tmp_path / "f" / "a.npy")
    windows = json.loads((tmp_path / "f" / "a.windows.json").read_text())
    # 25 frames a second: 2.4 seconds, and clips of 4 frames.
    np.testing.assert_allclose(windows["starts"], [0, 0.48, 1, 1.48, 2, 2.24])
    model = vswin_jax.load(tiny_run.workdir)
    assert found.shape == (6, model.features(np.zeros((1, 4, 16, 16, 3), "u1"))["final"].shape[-1])
    with open_video(videos / "a.mp4") as video:
        frames = video.decode(
            np.arange(25, 29), lambda frame, _: transforms.resize_short_side(frame, 16)
        )
    (clip,) = transforms.eval_crops(frames, 1, 16)
    expected = np.asarray(model.features(clip[None])["final"]).mean((1, 2, 3))[0]
    np.testing.assert_allclose(found[2], expected, atol=1e-5)

    (tmp_path / "f" / "a.npy").unlink()
    again = features(videos, tiny_run.workdir, tmp_path / "f", **options)
    assert (again.num_videos, again.earlier) == (1, 1)
    np.testing.assert_array_equal(np.load(tmp_path / "f" / "a.npy"), found)
    other = {"windows": WindowOptions(1.0)}
    with pytest.raises(InputError, match=r"of other settings \(stride 0\.5, not 1\.0\)"):
        features(videos, tiny_run.workdir, tmp_path / "f", **options | other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stride=0.5"], "Expected windows at a stride as a file a video"),
        (["--stride=0.5", "--per-video", "--views=2x1"], "Expected windows at a stride as a file"),
        (["--frame-rate=30"], "--frame-rate is about windows: give --stride too."),
        (["--stride=0", "--per-video"], "Expected the stride as seconds above 0"),
    ],
)
def test_wrong_options_are_one_sentence(
    tiny_run: "Run",
    videos: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [str(videos / "a.mp4"), f"--checkpoint={tiny_run.workdir}"]
    status = features_command.run([*command, f"--out={tmp_path / 'f'}", *arguments])
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "f").exists()
