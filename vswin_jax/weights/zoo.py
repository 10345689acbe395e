"""The table of released Swin checkpoints, and downloads of them to a local cache.

`VSWIN_CACHE` is the directory of downloads (default: `~/.cache/vswin_jax`). `VSWIN_MIRROR` is a
base URL that replaces everything but the file name in the URL of a released checkpoint:
`http://mirror/swin` gives `http://mirror/swin/swin_tiny_patch4_window7_224.pth`. Other URLs are
used unchanged. A file that was put into the cache by hand is used too.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.runtime.output_path import is_writable
from vswin_jax.weights.download import download
from vswin_jax.weights.files import digests

Window = tuple[int, int] | tuple[int, int, int]

_SWIN = "https://github.com/SwinTransformer/storage/releases/download"
_TORCHVISION_URL = "https://download.pytorch.org/models"
_MMACTION_URL = "https://download.openmmlab.com/mmaction/v1.0/recognition/swin"

# Variant, window, resolution, and top-1 / top-5 on ImageNet-1K of the model trained on ImageNet-1K
# alone and of the model pretrained on ImageNet-22K. An empty accuracy: there is no such model.
_SWIN_2D = (
    ("tiny", 7, 224, "81.2 / 95.5", "80.9 / 96.0"),
    ("small", 7, 224, "83.2 / 96.2", "83.2 / 97.0"),
    ("base", 7, 224, "83.5 / 96.5", "85.2 / 97.5"),
    ("base", 12, 384, "84.5 / 97.0", "86.4 / 98.0"),
    ("large", 7, 224, "", "86.3 / 97.9"),
    ("large", 12, 384, "", "87.3 / 98.2"),
)
# Variant, window, training data, classes, and top-1 / top-5.
_SWIN_3D = (
    ("tiny", (8, 7, 7), "kinetics400_1k", 400, "Kinetics-400 78.8 / 93.6"),
    ("small", (8, 7, 7), "kinetics400_1k", 400, "Kinetics-400 80.6 / 94.5"),
    ("base", (8, 7, 7), "kinetics400_1k", 400, "Kinetics-400 80.6 / 94.6"),
    ("base", (8, 7, 7), "kinetics400_22k", 400, "Kinetics-400 82.7 / 95.5"),
    ("base", (8, 7, 7), "kinetics600_22k", 600, "Kinetics-600 84.0 / 96.5"),
    ("base", (16, 7, 7), "kinetics400_22k", 400, "initial weights of the next model"),
    ("base", (16, 7, 7), "sthv2", 174, "Something-Something v2 69.6 / 92.7"),
)
# Name, first digits of the SHA-256, variant, and top-1 / top-5.
_TORCHVISION = (
    ("swin_t", "704ceda3", "tiny", "ImageNet-1K 81.474 / 95.776"),
    ("swin_s", "5e29d889", "small", "ImageNet-1K 83.196 / 96.360"),
    ("swin_b", "68c6b09e", "base", "ImageNet-1K 83.582 / 96.640"),
    ("swin3d_t", "7615ae03", "tiny", "Kinetics-400 77.715 / 93.519"),
    ("swin3d_s", "da41c237", "small", "Kinetics-400 79.521 / 94.158"),
    ("swin3d_b_1k", "24f7c7c6", "base", "Kinetics-400 79.427 / 94.386"),
    ("swin3d_b_22k", "7c6ae6fa", "base", "Kinetics-400 81.643 / 95.574"),
)
# Variant, pretraining and batch size, date and digits of the file, Kinetics classes, top-1 / top-5.
_MMACTION2 = (
    ("tiny", "in1k-pre_8xb8", "20220930-241016b2", 400, "78.90 / 93.77"),
    ("small", "in1k-pre_8xb8", "20220930-e91ab986", 400, "80.54 / 94.46"),
    ("base", "in1k-pre_8xb8", "20220930-182ec6cc", 400, "80.57 / 94.49"),
    ("large", "in22k-pre_8xb8", "20220930-78ad8b11", 400, "83.46 / 95.91"),
    ("large", "in22k-pre_16xb8", "20220930-f8d74db7", 700, "75.92 / 92.72"),
    ("small", "in1k-pre_32xb4", "20230612-8e082ff1", 710, "76.90 / 92.96"),
)


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """A released checkpoint file.

    Attributes:
      name: the key in `RELEASED`.
      url: the address of the file.
      variant: a model variant, such as "swin_tiny".
      window: in tokens, (height, width) of an image model, (time, height, width) of a video model.
      num_classes: outputs of the head.
      published: the published accuracy, in %.
      source: the publisher.
      size: bytes; None if unpublished.
      sha256: all or the first of its hexadecimal digits; None if unpublished.
    """

    name: str
    url: str
    variant: str
    window: Window
    num_classes: int
    published: str
    source: str
    size: int | None = None
    sha256: str | None = None

    @property
    def is_2d(self) -> bool:
        """True for an image model, False for a video model."""
        return len(self.window) == 2

    @property
    def file(self) -> str:
        """The file's name."""
        return _file_name(self.url)


def _swin_2d() -> Iterator[ReleasedCheckpoint]:
    """Yield the image models of microsoft/Swin-Transformer, from its MODELHUB.md."""
    for variant, window, pixels, from_1k, from_22k in _SWIN_2D:
        # The 22K models of the two smaller variants were released later, with another suffix.
        late = variant in ("tiny", "small")
        name = f"swin_{variant}_patch4_window{window}_{pixels}"
        release, suffix = ("v1.0.8", "_finetune") if late else ("v1.0.0", "")
        files = [
            (f"v1.0.0/{name}", 1000, from_1k and f"ImageNet-1K {from_1k}"),
            (f"{release}/{name}_22k", 21841, f"ImageNet-1K {from_22k} when fine-tuned"),
            (f"{release}/{name}_22kto1k{suffix}", 1000, f"ImageNet-1K {from_22k}"),
        ]
        for path, num_classes, published in files:
            if published:
                yield _microsoft(path, variant, (window, window), num_classes, published)


def _swin_3d() -> Iterator[ReleasedCheckpoint]:
    """Yield the video models of SwinTransformer/Video-Swin-Transformer, from its README."""
    for variant, window, data, num_classes, published in _SWIN_3D:
        name = f"swin_{variant}_patch244_window{''.join(map(str, window))}_{data}"
        yield _microsoft(f"v1.0.4/{name}", variant, window, num_classes, published)


def _microsoft(
    path: str, variant: str, window: Window, num_classes: int, published: str
) -> ReleasedCheckpoint:
    """Describe the file at `path`, which is a release and a file name without `.pth`."""
    return ReleasedCheckpoint(
        name=path.rpartition("/")[2],
        url=f"{_SWIN}/{path}.pth",
        variant=f"swin_{variant}",
        window=window,
        num_classes=num_classes,
        published=published,
        source="microsoft",
    )


def _torchvision() -> Iterator[ReleasedCheckpoint]:
    """Yield torchvision's models; a file name has the first digits of its SHA-256."""
    for name, digits, variant, published in _TORCHVISION:
        window, num_classes = ((8, 7, 7), 400) if "3d" in name else ((7, 7), 1000)
        yield ReleasedCheckpoint(
            name=name,
            url=f"{_TORCHVISION_URL}/{name}-{digits}.pth",
            variant=f"swin_{variant}",
            window=window,
            num_classes=num_classes,
            published=published,
            source="torchvision",
            sha256=digits,
        )


def _mmaction2() -> Iterator[ReleasedCheckpoint]:
    """Yield the models that mmaction2 1.x retrained: its configs/recognition/swin/README.md."""
    for variant, settings, version, num_classes, accuracy in _MMACTION2:
        training = f"{settings}-amp-32x2x1-30e_kinetics{num_classes}"
        name = f"swin-{variant}-p244-w877_{training}-rgb"
        yield ReleasedCheckpoint(
            name=name,
            url=f"{_MMACTION_URL}/{name}/{name}_{version}.pth",
            variant=f"swin_{variant}",
            window=(8, 7, 7),
            num_classes=num_classes,
            published=f"Kinetics-{num_classes} {accuracy}",
            source="mmaction2",
        )


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


RELEASED = {
    released.name: released
    for family in (_swin_2d, _swin_3d, _torchvision, _mmaction2)
    for released in family()
}


def find_released(name: str) -> ReleasedCheckpoint:
    """Return the released checkpoint with this key of `RELEASED` or this file name.

    `.pth` is optional in both.

    Raises:
      InputError: there is none; the message lists similar names.
    """
    stem = name.removesuffix(".pth")
    by_file = {released.file.removesuffix(".pth"): released for released in RELEASED.values()}
    found = RELEASED.get(stem) or by_file.get(stem)
    if found is None:
        raise unknown_name("released checkpoint", name, RELEASED)
    return found


def is_url(text: str) -> bool:
    """Return True if `text` is a URL, and not a file's path or a released checkpoint's name."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def cache_directory() -> Path:
    """Return the directory of downloads: `VSWIN_CACHE`, or `~/.cache/vswin_jax`.

    A user without a home directory that can be written to, as in a container, has one under the
    directory for temporary files.
    """
    chosen = os.environ.get("VSWIN_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    cache = Path(os.path.expanduser("~/.cache/vswin_jax"))
    if os.path.isdir(cache) or (cache.is_absolute() and is_writable(cache)):
        return cache
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"vswin_jax_{user}"


def fetch(name_or_url: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """Return the local file of a released checkpoint or of an http or https URL.

    The file is downloaded to `cache` (by default `cache_directory()`) unless it is there. The
    first call records its SHA-256 in `<file>.sha256`; later calls verify it.

    Raises:
      InputError: an unknown name, no connection, an unexpected file, or a changed file in the
        cache. The message gives the path for a file that is downloaded by hand.
    """
    cache = Path(cache) if cache else cache_directory()
    released = _find_by_name_or_url(name_or_url)
    if released is not None:
        return _fetch_released(released, cache)
    path = cache / _url_digest(name_or_url) / _checked_file_name(name_or_url)
    if not path.exists():
        download(name_or_url, path)
    digests.verify(path)
    return path


def _fetch_released(released: ReleasedCheckpoint, cache: Path) -> Path:
    path = cache / released.file
    if not path.exists():
        url = _mirror_url(released)
        download(url, path, expected_size=released.size, sha256=released.sha256)
    digests.verify(path, released.sha256)
    return path


def _find_by_name_or_url(name_or_url: str) -> ReleasedCheckpoint | None:
    if not is_url(name_or_url):
        return find_released(name_or_url)
    return next((r for r in RELEASED.values() if r.url == name_or_url), None)


def _mirror_url(released: ReleasedCheckpoint) -> str:
    """Return the URL to download from: the mirror's, if `VSWIN_MIRROR` is set."""
    mirror = os.environ.get("VSWIN_MIRROR")
    return f"{mirror.rstrip('/')}/{released.file}" if mirror else released.url


def _url_digest(url: str) -> str:
    """Return a directory name for files of this URL.

    Many URLs end in the same file name, such as `model.safetensors`.
    """
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def _checked_file_name(url: str) -> str:
    try:
        name = _file_name(url)
    except ValueError:
        name = ""
    if name in ("", ".", "..") or "\0" in name:
        raise InputError(f"Expected the URL of a checkpoint file but {url!r} names no file.")
    return name
