"""Explanations of videos: their clips, their files, a second start, wrong input."""

from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from PIL import Image

import vswin_jax
from vswin_jax.data.example import Example
from vswin_jax.errors import InputError
from vswin_jax.explain import explain, run
from vswin_jax.inference.explanations.clip_at_time import read_clip_at
from vswin_jax.inference.explanations.explanation_files import distinct_names
from vswin_jax.inference.video_paths import find_videos

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(scope="module")
def videos(tiny_run: "Run") -> Path:
    return tiny_run.workdir / "moving_shapes" / "test"


@pytest.fixture(scope="module")
def video(videos: Path) -> Path:
    return next(videos.glob("move_left/*.mp4"))


def test_a_video_gets_a_strip_a_video_and_its_map(
    tiny_run: "Run", video: Path, tmp_path: Path
) -> None:
    files = {kind: tmp_path / f"a{suffix}" for kind, suffix in PARTS.items()}
    (explained,) = explain(video, tiny_run.workdir, **files, label="grow")
    model = vswin_jax.load(tiny_run.workdir)
    clip = model.read_clip(video)
    assert np.array_equal(explained.frames, clip[0])
    grow = model.label_names.index("grow")
    assert explained.label == "grow"
    np.testing.assert_allclose(explained.probability, model.probabilities(clip)[0, grow], atol=1e-6)
    # Clips of 4 x 16 x 16 and patches of 2 x 4 x 4.
    assert np.load(files["map"]).shape == (2, 4, 4)
    assert np.array_equal(np.load(files["map"]), explained.tokens)
    assert explained.heat.shape == (4, 16, 16)
    assert explained.heat.max() in (0, 1)

    # 16 pixels are enlarged by 12: the first frame is a whole number of pixels wide, and sharp.
    with Image.open(files["out"]) as picture:
        strip = np.asarray(picture)
    assert (strip.shape[1] // 2, strip.shape[1]) == (394, 788)
    assert np.array_equal(strip[62 : 62 + 192 : 12, 4 : 4 + 192 : 12], clip[0, 0])
    with av.open(files["video"]) as container:
        assert len(list(container.decode(video=0))) == 4


PARTS = {"out": ".png", "video": ".mp4", "map": ".npy"}


def test_attention_has_the_windows_outline(tiny_run: "Run", video: Path) -> None:
    (explained,) = explain(video, tiny_run.workdir, method="attention", query=(0, 0.3, 0.9))
    # One window covers the 2 x 4 x 4 tokens; the query is the token (0, 1, 3).
    assert explained.tokens.sum() == pytest.approx(1, abs=1e-5)
    assert explained.outline.min() == 1
    rows = np.argwhere(explained.outline[0] == 2)
    assert (rows.min(0).tolist(), rows.max(0).tolist()) == ([4, 12], [7, 15])


def test_a_folder_is_explained_once_and_other_settings_are_refused(
    tiny_run: "Run", videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "videos"
    for name in ("grow", "shrink"):
        (source / name).mkdir(parents=True)
        (source / name / "a.mp4").write_bytes(next((videos / name).iterdir()).read_bytes())
    (source / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    command = [str(source), f"--checkpoint={tiny_run.workdir}", f"--map={out}"]
    assert run(command) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert printed.err.count("error:") == 1
    assert "bad.mp4" in printed.err
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert names == ["explain.json", "grow/a.npy", "shrink/a.npy"]

    (out / "grow" / "a.npy").unlink()
    assert run(command) == 1
    printed = capsys.readouterr()
    assert "1 of 3 videos are explained before" in printed.err
    assert "grow" in printed.out
    assert (out / "grow" / "a.npy").exists()
    assert run([*command, "--label=2"]) == 2
    assert "explanations with label 2 but they have None" in capsys.readouterr().err


def test_a_time_moves_the_clip(tiny_run: "Run", video: Path) -> None:
    model = vswin_jax.load(tiny_run.workdir)
    (found,) = find_videos(video)
    example, spec = Example(found.video, 0, 0, found.path), model.spec
    # 12 frames at 12 a second; a clip spans 4 of them, and the middle test view begins at 4.
    assert np.array_equal(read_clip_at(example, spec, 0.5), model.read_clip(video))
    first, last = read_clip_at(example, spec, 0.0), read_clip_at(example, spec, 0.9)
    assert not np.array_equal(first, last)
    (explained,) = explain(video, tiny_run.workdir, time=0.9)
    assert np.array_equal(explained.frames, last[0])
    with pytest.raises(InputError, match=r"from 0 to 0\.92 s, but 7 s came"):
        read_clip_at(example, spec, 7.0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--out, --video or --map but none"),
        (["--map=a.npy", "--stage=3"], "stage to be from 0 to 0"),
        (["--map=a.npy", "--label=jump"], "Unknown class 'jump'"),
        (["--map=a.npy", "--label=8"], "class number from 0 to 7 but 8"),
        (["--map=a.npy", "--head=0"], "no head for the method 'gradcam'"),
        (["--map=a.npy", "--method=attention", "--head=5"], "head to be from 0 to 0"),
        (["--map=a.npy", "--method=attention", "--query=1,2,3"], "from 0 to 1"),
        (["--map=a.npy", "--time=-1"], "seconds from 0 up but -1"),
        (["--map=a.npy", "--out=b"], "either files"),
        (["--map=a.txt/b.npy"], "'a.txt/b.npy' is not"),
    ],
)
def test_wrong_input_is_one_sentence(
    flags: list[str],
    words: str,
    tiny_run: "Run",
    video: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").touch()
    assert run([str(video), f"--checkpoint={tiny_run.workdir}", *flags]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_names_are_the_paths_below_the_shared_folder() -> None:
    assert distinct_names(["/x/a/1.mp4", "/x/b/1.mp4"]) == ["a/1", "b/1"]
    assert distinct_names(["/x/1.mp4", "/x/1.avi"]) == ["1.mp4", "1.avi"]
