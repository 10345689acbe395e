"""Probes of synthetic features and of those of a small trained run."""

import json
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.inference import features, load_features
from vswin_jax.inference.feature_files.feature_directory import create_directory
from vswin_jax.inference.feature_files.feature_shard import FeatureShard
from vswin_jax.inference.feature_files.feature_shard_plan import Piece
from vswin_jax.inference.probing import ProbeData, probe
from vswin_jax.inference.probing.nearest_neighbours import neighbour_scores
from vswin_jax.inference.probing.ridge import ridge_scores

if TYPE_CHECKING:
    from conftest import Run

SCRIPT = Path(__file__).parents[3] / "scripts" / "probe.py"
CLASSES = 4


@pytest.fixture(scope="module")
def run() -> Callable[..., int]:
    return runpy.run_path(str(SCRIPT))["run"]


def clusters(count: int, seed: int, spread: float = 0.3) -> ProbeData:
    """Draw videos of 4 classes around the first 4 axes of 16 dimensions."""
    rng = np.random.default_rng(seed)
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(count) % CLASSES]
    vectors = rng.normal(scale=spread, size=(count, 16))
    vectors[:, :CLASSES] += targets
    return ProbeData(vectors.astype(np.float32), targets)


def write(path: Path, data: ProbeData, **settings: object) -> Path:
    """Write data as the features of a directory, one view a video."""
    labels = data.targets if data.multi_label else data.targets.argmax(axis=1)
    content = FeatureShard(
        index=np.arange(len(data)),
        names=tuple(f"{index}.mp4" for index in range(len(data))),
        labels=labels.astype(np.int8 if data.multi_label else np.int64),
        features=data.vectors[:, None],
    )
    defaults = {
        **{"weights": "0", "layer": "pooled", "compute_dtype": "float32", "step": 7},
        **{"num_videos": len(data), "videos_per_shard": len(data), "format": "npz"},
        **{"shape": [1, data.vectors.shape[1]], "dtype": "float32", "label_names": list("abcd")},
    }
    create_directory(path, defaults | settings).write(0, content, Piece(1, 1))
    return path


def test_separable_features_are_classified_and_noise_is_not() -> None:
    result = probe(clusters(200, seed=0, spread=0.05), clusters(40, seed=1, spread=0.05))
    assert (result.knn, result.linear) == (1.0, 1.0)
    train, test = clusters(200, seed=0, spread=1e3), clusters(400, seed=1, spread=1e3)
    result = probe(train, test)
    # Four classes by chance, within three standard deviations (0.022).
    assert result.knn == pytest.approx(0.25, abs=0.066)
    assert result.linear == pytest.approx(0.25, abs=0.066)


def test_ridge_solves_the_normal_equations() -> None:
    train, queries = clusters(60, seed=0), clusters(8, seed=1).vectors
    mean, std = train.vectors.mean(0), train.vectors.std(0)
    x, prior = (train.vectors - mean) / std, train.targets.mean(0)
    for strength, found in ridge_scores(train, queries, strengths=(1e-3, 1.0)).items():
        normal = x.T @ x / len(x) + strength * np.eye(x.shape[1])
        weights = np.linalg.solve(normal, x.T @ (train.targets - prior) / len(x))
        np.testing.assert_allclose(found, (queries - mean) / std @ weights + prior, atol=1e-4)


def test_neighbours_vote_by_their_similarity() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 2]], np.float32)
    train = ProbeData(vectors, np.eye(3, dtype=np.float32))
    scores = neighbour_scores(train, np.array([[3, 0]], np.float32), counts=(1, 2, 3, 50))
    assert list(scores) == [1, 2, 3]
    np.testing.assert_allclose(scores[1], [[1, 0, 0]], atol=1e-6)
    # Cosine similarities of 1, 0.8 and 0.
    votes = np.exp((np.array([1, 0.8, 0]) - 1) / 0.07)
    np.testing.assert_allclose(scores[2], [[votes[0], votes[1], 0]], rtol=1e-4)
    np.testing.assert_allclose(scores[3], [votes], rtol=1e-4)


def test_the_regularisation_fits_the_number_of_videos() -> None:
    # 40 videos and 400 dimensions of noise: the weakest penalty fits the noise.
    rng = np.random.default_rng(0)
    train, test = (
        ProbeData(
            np.hstack([data.vectors, rng.normal(size=(len(data), 400))]).astype(np.float32),
            data.targets,
        )
        for data in (clusters(40, seed=2), clusters(200, seed=3))
    )
    by_strength = {
        strength: test.score(scores)
        for strength, scores in ridge_scores(train, test.vectors).items()
    }
    assert probe(train, test).linear >= max(by_strength.values()) - 0.1


def test_held_out_videos_are_a_fifth_of_each_class() -> None:
    train = clusters(100, seed=0)
    rest, held_out = train.split()
    assert held_out.targets.sum(0).tolist() == [5, 5, 5, 5]
    rows = np.concatenate([rest.vectors, held_out.vectors])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, train.vectors))
    with pytest.raises(InputError, match="5 or more training videos, to hold some out, but 3 came"):
        clusters(3, seed=0).split()


def test_several_labels_a_video_give_the_map() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((300, CLASSES)) < 0.4).astype(np.float32)
    vectors = np.hstack([targets, np.zeros((300, 4))]) + rng.normal(scale=0.05, size=(300, 8))
    data = ProbeData(vectors.astype(np.float32), targets, multi_label=True)
    result = probe(data.take(np.arange(200)), data.take(np.arange(200, 300)))
    assert result.linear == 1.0
    assert result.knn > 0.99


def test_the_table_has_a_row_for_each_pair(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, spread in (("good", 0.05), ("bad", 1e3)):
        write(tmp_path / name / "train", clusters(100, seed=0, spread=spread))
        write(tmp_path / name / "test", clusters(40, seed=1, spread=spread))
    train, test = (
        [os.fspath(tmp_path / name / part) for name in ("good", "bad")]
        for part in ("train", "test")
    )
    assert run(["--train", *train, "--test", *test]) == 0
    header, good, bad, metric = capsys.readouterr().out.splitlines()
    assert header.split()[6:] == ["k-NN", "k", "linear", "penalty"]
    assert good.split()[:7] == [train[0], "7", "pooled", "16", "100", "40", "100.00%"]
    assert good.split()[8] == "100.00%"
    assert float(bad.split()[8].rstrip("%")) < 60
    assert metric == "scores: accuracy"


def test_features_of_a_trained_run(
    run: Callable[..., int], tiny_run: "Run", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = tiny_run.workdir / "moving_shapes" / "train"
    written = features(shapes, tiny_run.workdir, tmp_path / "a", kind="folder", processes=0)
    stored = load_features(written.directory)
    assert stored.label_names[stored.labels[0]] == Path(stored.names[0]).parent.name
    path = os.fspath(written.directory)
    assert run(["--train", path, "--test", path]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[1:6] == ["40", "pooled", "4", "8", "8"]


def test_wrong_inputs_get_a_sentence(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = clusters(20, seed=0)
    train = write(tmp_path / "train", data)
    other = write(tmp_path / "other", data, weights="1")
    classes = write(tmp_path / "classes", data, label_names=list("abce"))
    nothing = write(tmp_path / "nothing", ProbeData(data.vectors * np.nan, data.targets))
    unlabelled = write(tmp_path / "unlabelled", ProbeData(data.vectors, data.targets))
    shard = unlabelled / "shard-00000-of-00001.npz"
    arrays = dict(np.load(shard)) | {"labels": np.full(20, -1)}
    np.savez(shard, **arrays)
    for tests, words in (
        ([train, train], "a directory of --test for each of --train but 2 and 1 came"),
        ([tmp_path], "has no features.json: give one"),
        ([other], "features of one model but their weights is '0'"),
        ([classes], "the same classes, in the same order"),
        ([nothing], "finite numbers but some are infinite or NaN"),
        ([unlabelled], "have no classes: write the features of a list with labels"),
    ):
        assert run(["--train", str(train), "--test", *map(str, tests)]) == 2
        printed = capsys.readouterr()
        assert words in printed.err
        assert printed.err.startswith("error: ")
        assert not printed.out
    settings = json.loads((train / "features.json").read_text())
    (train / "features.json").write_text(json.dumps({**settings, "num_videos": None}))
    assert run(["--train", str(train), "--test", str(train)]) == 2
    assert "is damaged" in capsys.readouterr().err
