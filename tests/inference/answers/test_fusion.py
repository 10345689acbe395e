"""Late fusion of answers of files: matched by name, weighted, and scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

import vswin_jax
from vswin_jax.combine import run
from vswin_jax.errors import InputError
from vswin_jax.inference import combine
from vswin_jax.inference.answers.answer_formats import (
    format_of,
    read_answers,
    read_settings,
    write_settings,
)
from vswin_jax.inference.answers.answer_rows import Answer, make_answer

NAMES = ("jump", "run", "swim")
TRUTH = {"a": ("jump",), "b": ("run",), "c": ("swim",)}
FIRST = {"a": (0.7, 0.2, 0.1), "b": (0.5, 0.4, 0.1), "c": (0.3, 0.3, 0.4)}
SECOND = {"b": (0.1, 0.8, 0.1), "c": (0.6, 0.2, 0.2), "a": (0.4, 0.5, 0.1)}


def write(
    path: Path,
    scores: Mapping[str, Sequence[float]],
    names: Sequence[str] = NAMES,
    *,
    all_scores: bool = True,
    multi_label: bool = False,
) -> Path:
    """Write the answers with `scores` in the order of NAMES as a file with the order of `names`."""
    order = [NAMES.index(name) for name in names]
    answers = [
        make_answer(video, TRUTH[video], np.array(row)[order], names, topk=2, all_scores=all_scores)
        for video, row in scores.items()
    ]
    format_of(path).write(path, answers, names)
    write_settings(path, {"label_names": [*names], "multi_label": multi_label})
    return path


def test_scores_are_weighted_means_of_videos_and_classes_of_one_name(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "first.csv", FIRST),
        write(tmp_path / "second.jsonl", SECOND, ("swim", "jump", "run")),
    ]
    combined = combine(files, tmp_path / "both.jsonl", weights=[3, 1])
    assert [answer.video for answer in combined.answers] == ["a", "b", "c"]
    for answer in combined.answers:
        pairs = zip(FIRST[answer.video], SECOND[answer.video], strict=True)
        expected = [0.75 * first + 0.25 * second for first, second in pairs]
        np.testing.assert_allclose(answer.scores, expected, rtol=1e-6)
        assert answer.classes[0] == NAMES[int(np.argmax(expected))]
    shares = [scores["top1"] for scores in combined.own_scores]
    np.testing.assert_allclose([*shares, combined.scores["top1"]], [2 / 3, 1 / 3, 2 / 3])
    assert tuple(read_answers(tmp_path / "both.jsonl")) == combined.answers
    # What was combined can be combined again.
    assert len(combine([tmp_path / "both.jsonl", files[0]]).answers) == 3


def test_videos_of_some_files_are_left_out_on_request(tmp_path: Path) -> None:
    some = {name: FIRST[name] for name in ("a", "c")}
    files = [write(tmp_path / "first.jsonl", FIRST), write(tmp_path / "some.jsonl", some)]
    with pytest.raises(InputError, match=r"1 of 3 videos are answered by only some .* \(b\)"):
        combine(files)
    combined = combine(files, allow_missing=True)
    assert [answer.video for answer in combined.answers] == ["a", "c"]
    assert combined.left_out == ("b",)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "first.jsonl", FIRST)
    top = write(tmp_path / "top.jsonl", FIRST, all_scores=False)
    other = tmp_path / "other.jsonl"
    answers = [Answer("a", scores=(0.5, 0.5), classes=("jump",), probabilities=(0.5,))]
    format_of(other).write(other, answers, ("jump", "fly"))
    write_settings(other, {"label_names": ["jump", "fly"], "multi_label": False})
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(first.read_bytes())
    cases = [
        ([first, top], {}, "predict again with --scores all"),
        ([first, other], {}, r"differ \(fly, run, swim\)"),
        ([first, alone], {}, "no usable alone.jsonl.settings.json beside it"),
        ([first], {}, "Expected two or more files"),
        ([first, first], {"weights": [1]}, "Expected a weight for each of the 2 files but 1 came"),
        ([first, first], {"weights": [1, -1]}, "Expected positive weights"),
        ([first, tmp_path / "none.jsonl"], {}, "No such file"),
    ]
    for files, options, message in cases:
        with pytest.raises(InputError, match=message):
            combine(files, **options)


def test_no_answers_are_lost_to_a_combination(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", FIRST) for name in ("x", "y")]
    before = files[0].read_bytes()
    with pytest.raises(InputError, match="is one of those to combine: change out"):
        combine(files, files[0])
    third = write(tmp_path / "z.jsonl", SECOND)
    with pytest.raises(
        InputError, match=r"z\.jsonl' exists and is not of .*combine`: give another"
    ):
        combine(files, third)
    assert files[0].read_bytes() == before
    combine(files, third, overwrite=True, weights=[1, 3])
    # The result of an earlier combination is replaced.
    combine(files, third)
    assert set(read_settings(third)["combined"].values()) == {0.5}


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(write(tmp_path / f"{name}.jsonl", FIRST)) for name in ("x", "y")]
    assert run([*files, "--out", str(tmp_path / "z.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 videos"
    assert [line.split()[1:] for line in lines[1:]] == [["top1", "66.67%"]] * 3
    assert run(files[:1]) == 2
    assert capsys.readouterr().err == "error: Expected two or more files of answers but 1 came.\n"
    assert len(vswin_jax.combine(files).answers) == 3
