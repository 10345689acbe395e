from pathlib import Path

import pytest

from vswin_jax.errors import InputError
from vswin_jax.inference.exports.export_output import (
    checked_output,
    complete_output,
    description_path,
    size_of,
)
from vswin_jax.inference.exports.saved_model import SAVED_MODEL
from vswin_jax.inference.exports.stablehlo_file import STABLEHLO


def write_export(path: Path, content: str) -> None:
    """Write an export with its description, a SavedModel if `path` has no suffix."""
    if path.suffix:
        path.write_text(content)
    else:
        path.mkdir()
        (path / "saved_model.pb").write_text(content)
    description_path(path).write_text("{}")


def write_and_stop(path: Path) -> None:
    with complete_output(path) as partial:
        write_export(partial, "other")
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["a.stablehlo", "served"])
def test_files_appear_together_and_replace_earlier_ones(tmp_path: Path, name: str) -> None:
    for content in ("first", "second"):
        with complete_output(tmp_path / name) as partial:
            write_export(partial, content)
            assert partial.parent.parent == tmp_path
        assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.json"]
        assert size_of(tmp_path / name) == len(content)


def test_a_failure_leaves_the_earlier_export(tmp_path: Path) -> None:
    with complete_output(tmp_path / "served") as partial:
        write_export(partial, "first")
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(tmp_path / "served")
    assert (tmp_path / "served" / "saved_model.pb").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    for existing in ("a.stablehlo", "b.stablehlo.json"):
        (tmp_path / existing).write_text("mine")
        out = tmp_path / existing.removesuffix(".json")
        with pytest.raises(InputError, match=f"{existing}' already exists: give another name"):
            checked_output(out, STABLEHLO, overwrite=False)
        assert checked_output(out, STABLEHLO, overwrite=True) == out


def test_a_directory_that_is_no_export_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(InputError, match="videos' is something else, which is not deleted"):
        checked_output(tmp_path / "videos", SAVED_MODEL, overwrite=True)
    with pytest.raises(InputError, match="it is a directory"):
        checked_output(tmp_path / "videos", STABLEHLO, overwrite=True)


def test_places_that_cannot_be_written_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing', which does not exist"):
        checked_output(tmp_path / "missing" / "a", STABLEHLO, overwrite=False)
    with pytest.raises(InputError, match="path on this machine but 'gs://bucket/a' came"):
        checked_output("gs://bucket/a", STABLEHLO, overwrite=False)
