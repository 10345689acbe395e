"""The table of released files, and their downloads to the cache."""

import hashlib
import os
import tempfile
from pathlib import Path

import pytest
from unknown_user import run_as_unknown_user

from vswin_jax.errors import InputError
from vswin_jax.models.variants import VARIANTS
from vswin_jax.weights import zoo
from vswin_jax.weights.files import digests

CONTENT = b"weights"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replace downloads to a temporary cache by a fake, and return the list of its URLs."""
    urls: list[str] = []

    def download(url: str, path: Path, **_: object) -> None:
        urls.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT)
        digests.record(path, hashlib.sha256(CONTENT).hexdigest())

    monkeypatch.setattr(zoo, "download", download)
    monkeypatch.setenv("VSWIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VSWIN_MIRROR", raising=False)
    return urls


def test_every_released_file_is_complete() -> None:
    assert len(zoo.RELEASED) == 16 + 7 + 7 + 6
    assert len({released.file for released in zoo.RELEASED.values()}) == len(zoo.RELEASED)
    for name, released in zoo.RELEASED.items():
        assert released.name == name
        assert released.variant in VARIANTS
        assert released.url.startswith("https://")
        assert released.file.endswith(".pth")
        assert len(released.window) == (2 if released.is_2d else 3)
        assert released.published
        assert released.sha256 is None or f"-{released.sha256}.pth" in released.file


@pytest.mark.parametrize(
    ("name", "release", "variant", "window", "classes"),
    [
        ("swin_tiny_patch4_window7_224", "v1.0.0", "swin_tiny", (7, 7), 1000),
        ("swin_small_patch4_window7_224_22k", "v1.0.8", "swin_small", (7, 7), 21841),
        ("swin_tiny_patch4_window7_224_22kto1k_finetune", "v1.0.8", "swin_tiny", (7, 7), 1000),
        ("swin_large_patch4_window12_384_22kto1k", "v1.0.0", "swin_large", (12, 12), 1000),
        (
            "swin_base_patch244_window877_kinetics400_22k",
            "v1.0.4",
            "swin_base",
            (8, 7, 7),
            400,
        ),
        ("swin_base_patch244_window1677_sthv2", "v1.0.4", "swin_base", (16, 7, 7), 174),
    ],
)
def test_released_files_have_the_published_urls(
    name: str, release: str, variant: str, window: tuple[int, ...], classes: int
) -> None:
    released = zoo.find_released(f"{name}.pth")
    assert released is zoo.find_released(name)
    assert released.url == (
        f"https://github.com/SwinTransformer/storage/releases/download/{release}/{name}.pth"
    )
    assert (released.variant, released.window, released.num_classes) == (variant, window, classes)


def test_a_released_file_is_found_by_its_file_name() -> None:
    assert zoo.find_released("swin3d_t-7615ae03.pth") is zoo.find_released("swin3d_t")
    assert zoo.find_released("swin3d_t").sha256 == "7615ae03"


def test_the_error_for_an_unknown_name_has_similar_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'swin_tiny_patch4_window7_224'"):
        zoo.find_released("swin_tiny_patch4_window8_224")


def test_a_released_file_is_downloaded_once_into_the_cache(
    fetched: list[str], tmp_path: Path
) -> None:
    path = zoo.fetch("swin_tiny_patch4_window7_224")
    assert path == tmp_path / "cache" / "swin_tiny_patch4_window7_224.pth"
    assert zoo.fetch("swin_tiny_patch4_window7_224.pth") == path
    assert zoo.fetch(zoo.find_released("swin_tiny_patch4_window7_224").url) == path
    assert fetched == [zoo.find_released("swin_tiny_patch4_window7_224").url]
    assert zoo.fetch("swin_tiny_patch4_window7_224", cache=tmp_path / "other").exists()


def test_only_released_files_come_from_the_mirror(
    fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSWIN_MIRROR", "http://mirror/swin/")
    zoo.fetch("swin_small_patch4_window7_224")
    zoo.fetch("http://elsewhere/swin_small_patch4_window7_224.pth?x=1")
    assert fetched == [
        "http://mirror/swin/swin_small_patch4_window7_224.pth",
        "http://elsewhere/swin_small_patch4_window7_224.pth?x=1",
    ]


def test_urls_with_the_same_file_name_do_not_collide(fetched: list[str]) -> None:
    one, two = (zoo.fetch(f"https://host/{place}/model%20a.safetensors") for place in "ab")
    assert one != two
    assert one.name == two.name == "model a.safetensors"
    assert len(fetched) == 2
    for url in ("https://host/", "https://host/a/%2e%2e", "https://host/%00", "https://[host/a"):
        with pytest.raises(InputError, match="names no file"):
            zoo.fetch(url)


def test_a_changed_file_in_the_cache_is_refused(fetched: list[str]) -> None:
    path = zoo.fetch("swin_tiny_patch4_window7_224")
    path.write_bytes(b"strange")
    os.utime(path, ns=(0, 1))
    with pytest.raises(InputError, match=r"not the file it should be.*delete it and .*sha256"):
        zoo.fetch("swin_tiny_patch4_window7_224")
    path.write_bytes(CONTENT)
    assert zoo.fetch("swin_tiny_patch4_window7_224") == path


def test_an_unchanged_file_is_not_hashed_again(
    fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zoo.fetch("swin_tiny_patch4_window7_224")
    monkeypatch.setattr(digests, "sha256_of", lambda _: pytest.fail("it was read"))
    assert zoo.fetch("swin_tiny_patch4_window7_224") == path


def test_a_file_put_into_the_cache_by_hand_is_used_if_its_digest_matches(
    fetched: list[str], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "swin_base_patch4_window7_224.pth").write_bytes(CONTENT)
    (cache / "swin3d_t-7615ae03.pth").write_bytes(CONTENT)
    assert zoo.fetch("swin_base_patch4_window7_224").read_bytes() == CONTENT
    assert (cache / "swin_base_patch4_window7_224.pth.sha256").exists()
    with pytest.raises(InputError, match="instead of 7615ae03"):
        zoo.fetch("swin3d_t")
    assert fetched == []


def test_the_cache_of_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VSWIN_CACHE", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert zoo.cache_directory() == tmp_path / "home" / ".cache" / "vswin_jax"
    # A home that cannot be written to, as / in a container.
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert zoo.cache_directory() == tmp_path / f"vswin_jax_{os.getuid()}"
    monkeypatch.setenv("VSWIN_CACHE", "~/own")
    monkeypatch.setenv("HOME", "/home/of/me")
    assert zoo.cache_directory() == Path("/home/of/me/own")


def test_the_cache_of_a_user_without_a_name(tmp_path: Path) -> None:
    program = "from vswin_jax.weights import zoo; print(zoo.cache_directory())"
    done = run_as_unknown_user(["-c", program], tmp_path, {"TMPDIR": str(tmp_path)})
    assert (done.stdout, done.stderr) == (f"{tmp_path}/vswin_jax_12345\n", "")
