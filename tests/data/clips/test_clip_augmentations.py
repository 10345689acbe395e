from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from vswin_jax.data import ClipSpec, Example, register_augmentation
from vswin_jax.data.clips.clip_augmentations import (
    AUGMENTATIONS,
    AugmentationError,
    build_augmentations,
    check_importable,
)
from vswin_jax.data.clips.clips import train_clip, train_clips
from vswin_jax.data.clips.rand_augment import rand_augment
from vswin_jax.data.moving_shapes.moving_shapes import write_moving_shapes
from vswin_jax.data.pipeline.pipeline import train_batches
from vswin_jax.data.pipeline.sampler import example_rng, named_rng, rng_streams
from vswin_jax.data.sources.sources import open_source
from vswin_jax.errors import InputError

SPEC = ClipSpec(num_frames=4, frame_interval=2, resize=40, size=32)
SSV2 = replace(SPEC, rand_augment_n=4, rand_augment_m=7, flip=0.0)


@dataclass(frozen=True)
class Noise:
    low: int = 0
    high: int = 50
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low is {self.low} and above high")

    def __call__(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return clip + rng.integers(self.low, self.high, clip.shape, np.uint8)


def same(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rng.random(100)
    return clip


def mirror(clip: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    return clip[:, :, ::-1], True


def wrong(clip: np.ndarray, rng: np.random.Generator, how: str) -> object:
    results = {"size": clip[:, 1:], "dtype": clip.astype(np.float32), "list": [clip], "crash": clip}
    return clip @ clip if how == "crash" else results[how]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    entries = {"noise": Noise, "same": same, "mirror": mirror, "wrong": wrong}
    for name, entry in entries.items():
        register_augmentation(name)(entry)
    yield
    for name in entries:
        AUGMENTATIONS.remove(name)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shapes")
    options = {"train_scenes": 1, "test_scenes": 1, "seed": 0, "size": 48}
    write_moving_shapes(directory, **options, num_frames=12, fps=12)
    return directory / "train"


@pytest.fixture
def load(shapes: Path) -> Callable[..., tuple[np.ndarray, bool]]:
    """Return a function that loads a clip as the model gets it, and whether it is mirrored."""
    source = open_source(shapes)

    def load_clip(spec: ClipSpec, text: object, draw: int) -> tuple[np.ndarray, bool]:
        spec = replace(spec, augmentations=build_augmentations(text))
        loaded = train_clip(source[draw % 8], spec, example_rng(3, 1, draw))
        clip = loaded.clip[0]
        return (clip[:, :, ::-1] if loaded.flip else clip), loaded.mirrored

    return load_clip


Load = Callable[[ClipSpec, object, int], tuple[np.ndarray, bool]]


@pytest.mark.parametrize("spec", [SPEC, SSV2], ids=["kinetics", "ssv2"])
def test_an_augmentation_that_changes_nothing_leaves_the_published_clips_as_they_are(
    spec: ClipSpec, load: Load
) -> None:
    flips = set()
    for draw in range(16):
        (plain, mirrored), (added, also) = load(spec, (), draw), load(spec, "same, same", draw)
        np.testing.assert_array_equal(plain, added)
        assert mirrored == also
        flips.add(mirrored)
    assert flips == {False, True}


def test_the_draws_of_an_augmentation_depend_on_no_other_one(load: Load) -> None:
    alone, _ = load(SPEC, "noise", 5)
    plain, _ = load(SPEC, (), 5)
    rng = named_rng(example_rng(3, 1, 5), "noise")
    rng.random()  # of the probability
    np.testing.assert_array_equal(alone, plain + rng.integers(0, 50, plain.shape, np.uint8))
    for others in ("same, noise", "noise, same", "same, noise(p=0), same(p=0.3)"):
        expected = alone if "p=0)" not in others else plain
        np.testing.assert_array_equal(load(SPEC, others, 5)[0], expected)


def test_the_same_augmentation_twice_has_two_draws(load: Load) -> None:
    plain, once, twice = (load(SPEC, text, 2)[0] for text in ((), "noise", "noise, noise"))
    assert not np.array_equal(twice - once, once - plain)
    np.testing.assert_array_equal(load(SPEC, "noise(p=0), noise", 2)[0] - plain, twice - once)


def test_clips_of_one_video_and_every_epoch_have_draws_of_their_own() -> None:
    streams = [*rng_streams(example_rng(0, 0, 7), 2), example_rng(0, 1, 7), example_rng(1, 0, 7)]
    streams += [example_rng(0, 0, 8), example_rng(0, 0, 7, attempt=1)]
    draws = {float(named_rng(rng, "noise").random()) for rng in streams}
    used = example_rng(0, 0, 7)
    used.random(1000)
    assert len(draws) == len(streams)
    assert float(named_rng(used, "noise").random()) in draws


def test_the_list_is_applied_in_its_order(load: Load) -> None:
    plain, _ = load(SPEC, (), 3)
    grey, _ = load(SPEC, ["noise", "grayscale"], 3)
    coloured, _ = load(SPEC, [{"name": "grayscale"}, {"name": "noise", "high": 50}], 3)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    assert not np.array_equal(coloured[..., 0], coloured[..., 2])
    backwards, _ = load(SPEC, "reverse_time", 3)
    np.testing.assert_array_equal(backwards, plain[::-1])


def test_p_is_the_share_of_augmented_clips(load: Load) -> None:
    changed = [
        not np.array_equal(load(SPEC, "noise(p=0.25)", draw)[0], load(SPEC, (), draw)[0])
        for draw in range(64)
    ]
    assert 6 <= sum(changed) <= 28


def test_mirrored_clips_are_told_to_the_labels(load: Load) -> None:
    for draw in range(6):
        (plain, flipped), (twice, mirrored) = load(SPEC, (), draw), load(SPEC, "mirror", draw)
        np.testing.assert_array_equal(twice, plain[:, :, ::-1])
        assert mirrored == (not flipped)
        assert load(SPEC, "mirror, horizontal_flip", draw)[1] == flipped


def test_rand_augment_in_the_list_is_the_recipes_with_draws_of_its_own(load: Load) -> None:
    plain, _ = load(replace(SPEC, flip=0.0), (), 4)
    rng = named_rng(example_rng(3, 1, 4), "rand_augment")
    rng.random()
    expected, flipped = rand_augment(plain, rng, n=2, m=9)
    clip, mirrored = load(replace(SPEC, flip=0.0), "rand_augment(n=2, m=9)", 4)
    np.testing.assert_array_equal(clip, expected)
    assert mirrored == flipped


def test_color_jitter_keeps_the_frames_alike_and_within_its_strength() -> None:
    (step,) = build_augmentations("color_jitter(strength=0.5)")
    clip = np.full((3, 8, 8, 3), 100, np.uint8)
    for seed in range(20):
        changed, _ = step(clip, example_rng(0, 0, seed))
        assert np.array_equal(changed[0], changed[2])
        assert 49 <= changed.min() <= changed.max() <= 151
    assert not np.array_equal(changed, clip)
    hue = build_augmentations("color_jitter(strength=0, hue=0.5)")[0]
    red = np.zeros((2, 4, 4, 3), np.uint8) + np.array([200, 0, 0], np.uint8)
    turned, _ = hue(red, example_rng(0, 0, 1))
    assert turned.max() in range(190, 211)
    assert not np.array_equal(turned, red)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nois", "Unknown augmentation 'nois': did you mean 'noise'?"),
        ("noise(hihg=3)", "did you mean 'high'? The known ones are high, low, p, words."),
        ("noise(high='a')", "Expected option 'high' of the augmentation 'noise' to be a whole"),
        ("noise(high=1.5)", "to be a whole number but 1.5 came"),
        ("noise(high=True)", "to be a whole number but True came"),
        ("noise(low=9, high=3)", "refuses its options: low is 9 and above high; correct noise(low"),
        ("noise(p=1.5)", "a probability from 0 to 1 but 1.5 came"),
        ("wrong", "needs the option 'how': write wrong(how=...)"),
        ("noise(3)", "names with options, such as"),
        ("noise(high=open('x'))", "names with options, such as"),
        ("noise(**{'high': 3})", "names with options, such as"),
        ("noise(words=({'a': {[]: 1}},))", "names with options, such as"),
        ("noise(" + "(" * 300 + ")" * 300, "names with options, such as"),
        ("noise noise", "names with options, such as"),
        ([{"high": 3}], "names with options, such as"),
        (3, "names with options, such as"),
    ],
)
def test_wrong_lists_are_refused(text: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        build_augmentations(text)
    assert message in str(error.value)


def test_lists_of_a_checkpoint_are_those_of_the_config() -> None:
    (step,) = build_augmentations([{"name": "noise", "high": 9, "words": ["a", "b"]}])
    assert step.function == Noise(high=9, words=("a", "b"))
    (same_step,) = build_augmentations(("noise(high=9, words=('a', 'b'))",))
    assert step == same_step


def test_names_and_kinds_of_augmentations_are_checked_when_they_are_registered() -> None:
    for name, entry, message in (
        ("blur it", same, "letters, digits and underscores"),
        ("grayscale", same, "is registered already"),
        ("fades", type("Fades", (), {}), "frozen dataclass"),
        ("often", lambda clip, rng, p=0.5: clip, "has an option 'p'"),
    ):
        with pytest.raises(InputError, match=message):
            register_augmentation(name)(entry)
    register_augmentation("same")(same)  # as a notebook does that runs a cell again


@pytest.mark.parametrize("how", ["size", "dtype", "list", "crash"])
def test_an_augmentation_that_fails_ends_the_run_and_is_no_bad_video(
    how: str, shapes: Path
) -> None:
    spec = replace(SPEC, augmentations=build_augmentations(f"wrong(how={how!r})"))
    with pytest.raises(AugmentationError) as error:
        next(train_batches(open_source(shapes), spec, batch_size=2, seed=0))
    assert "The augmentation 'wrong'" in str(error.value) or "augmentation 'wrong'" in str(
        error.value
    )
    if how == "crash":
        assert f"{Path(__file__).name}, line" in str(error.value)


def test_decoding_processes_augment_as_threads_do(shapes: Path) -> None:
    spec = replace(
        SPEC, augmentations=build_augmentations("color_jitter(hue=0.1, p=0.7), gaussian_blur")
    )
    batches = [
        next(train_batches(open_source(shapes), spec, batch_size=8, seed=2, processes=processes))
        for processes in (0, 2)
    ]
    np.testing.assert_array_equal(batches[0]["video"], batches[1]["video"])
    halves = [
        next(
            train_batches(
                open_source(shapes), spec, batch_size=8, seed=2, process_index=i, process_count=2
            )
        )
        for i in range(2)
    ]
    both = np.concatenate([half["video"] for half in halves])
    np.testing.assert_array_equal(batches[0]["video"], both)


def test_what_processes_cannot_import_is_refused_before_they_start() -> None:
    @register_augmentation("local")
    @dataclass(frozen=True)
    class Local:
        def __call__(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return clip

    steps = build_augmentations("noise, same, local")
    AUGMENTATIONS.remove("local")
    check_importable(steps[:2])
    with pytest.raises(InputError, match="'local' is defined in a program, an experiment file"):
        check_importable(steps)


def test_repeated_clips_of_a_video_differ(shapes: Path) -> None:
    spec = replace(SPEC, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    spec = replace(spec, augmentations=build_augmentations("noise"))
    example: Example = open_source(shapes)[0]
    first, second = train_clips(example, spec, example_rng(0, 0, 0), 2)
    assert not np.array_equal(first.clip, second.clip)
