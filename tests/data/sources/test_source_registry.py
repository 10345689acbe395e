from collections.abc import Iterator

import numpy as np
import pytest

from vswin_jax.data import Example, SourceOptions, open_source, register_source
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.sources.source_registry import SOURCE_FORMATS
from vswin_jax.errors import InputError


class Numbered:
    """As many videos of two classes as the path says."""

    multi_label = False

    def __init__(self, path: str, options: SourceOptions) -> None:
        self.path, self.options = path, options
        self.label_names = tuple(options.label_names or ("no", "yes"))
        self.labels = np.arange(int(path), dtype=np.int32) % 2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return Example(f"{index}.mp4", int(self.labels[index]), index, str(index))

    @property
    def identity(self) -> str:
        return self.path


class OtherClasses(Numbered):
    def __init__(self, path: str, options: SourceOptions) -> None:
        super().__init__(path, options)
        self.label_names = ("yes", "no")


class NoExamples(Numbered):
    def __getitem__(self, index: int) -> str:
        return f"{index}.mp4"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    formats = {
        "numbered": Numbered,
        "other": OtherClasses,
        "texts": NoExamples,
        "half": lambda path, options: [path],
    }
    for name, entry in formats.items():
        register_source(name)(entry)
    yield
    for name in formats:
        SOURCE_FORMATS.remove(name)


def test_a_scheme_or_the_format_opens_a_registered_source() -> None:
    for path, kind in (("numbered:5", "auto"), ("5", "numbered"), ("numbered:5", "numbered")):
        source = open_source(path, kind=kind, root="videos", num_classes=2, must_exist=False)
        assert (len(source), source.identity) == (5, "5")
        assert source[3] == Example("3.mp4", 1, 3, "3")
        assert source.options == SourceOptions("videos", None, 2, must_exist=False)
    assert open_source("numbered:2", label_names=("a", "b")).label_names == ("a", "b")


def test_balanced_classes_need_the_labels_array() -> None:
    source = open_source("numbered:4")
    train_batches(source, batch_size=2, seed=0, class_balance=1.0, spec=_spec()).close()
    source.labels = source.labels.tolist()
    with pytest.raises(InputError, match="needs one class for every video"):
        train_batches(source, batch_size=2, seed=0, class_balance=1.0, spec=_spec())


def _spec() -> object:
    from vswin_jax.data import ClipSpec

    return ClipSpec(num_frames=2, resize=16, size=16)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("numberd:4", {}, "Unknown data format 'numberd': did you mean 'numbered'?"),
        ("4", {"kind": "numberd"}, "did you mean 'numbered'? The known values of kind"),
        ("no/such/file", {}, "There is no annotation file or folder of videos"),
        ("numbered:0", {}, "the data format 'numbered' finds none at '0'"),
        ("numbered:many", {}, "The data format 'numbered' cannot open 'many': invalid literal"),
        ("half:4", {}, "its list has no label_names, multi_label, identity: add it"),
        ("texts:4", {}, "to hold vswin_jax.data.Example but its first element is a str"),
        ("other:4", {"label_names": ("no", "yes")}, "differ from class 0 on"),
        ("numbered:4", {"multi_label": True}, "with multi_label=True, as config.data.multi"),
    ],
)
def test_wrong_paths_and_sources_are_refused(
    path: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as error:
        open_source(path, **options)
    assert message in str(error.value)


def test_built_in_formats_cannot_be_replaced() -> None:
    with pytest.raises(InputError, match="'csv' is a built-in one"):
        register_source("csv")(Numbered)
