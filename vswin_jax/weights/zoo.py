"""The released Swin checkpoints by name, and the file of any of them in a local cache.

`VSWIN_CACHE` says where downloads are kept (`~/.cache/vswin_jax`). `VSWIN_MIRROR` is a base URL
that replaces all of a released file's URL but its name: `http://mirror/swin` makes
`http://mirror/swin/swin_tiny_patch4_window7_224.pth`. URLs that a user gives are left as they are,
unless they are those of a released file. A file that was put into the cache by hand serves as well.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vswin_jax.errors import InputError, unknown_name
from vswin_jax.weights.download import download
from vswin_jax.weights.files import digests

Window = tuple[int, int] | tuple[int, int, int]

_SWIN = "https://github.com/SwinTransformer/storage/releases/download"
_TORCHVISION = "https://download.pytorch.org/models"
_MMACTION = "https://download.openmmlab.com/mmaction/v1.0/recognition/swin"


@dataclass(frozen=True)
class Released:
    """A released file: what is in it and where it is.

    window: tokens, (height, width) of an image model, (time, height, width) of a video model.
    size: bytes; sha256: all or the first of its hexadecimal digits; None where nobody says them.
    published: the accuracy that was published for it, in %; source: by whom.
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
        """Whether it is an image model."""
        return len(self.window) == 2

    @property
    def file(self) -> str:
        """The file's name."""
        return _file_name(self.url)


def _swin_2d() -> Iterator[Released]:
    """The image models of microsoft/Swin-Transformer, as its MODELHUB.md lists them."""
    # variant, window and resolution, top-1 / top-5 on ImageNet-1K: trained there, from 22K there.
    rows = (
        ("tiny", 7, 224, "81.2 / 95.5", "80.9 / 96.0"),
        ("small", 7, 224, "83.2 / 96.2", "83.2 / 97.0"),
        ("base", 7, 224, "83.5 / 96.5", "85.2 / 97.5"),
        ("base", 12, 384, "84.5 / 97.0", "86.4 / 98.0"),
        ("large", 7, 224, "", "86.3 / 97.9"),
        ("large", 12, 384, "", "87.3 / 98.2"),
    )
    for variant, window, pixels, only_1k, from_22k in rows:
        # The smaller two were trained on 22K later, and named otherwise.
        late = variant in ("tiny", "small")
        name, release = f"swin_{variant}_patch4_window{window}_{pixels}", "v1.0.0"
        release_22k, tail = ("v1.0.8", "_finetune") if late else ("v1.0.0", "")
        files = [
            (name, release, 1000, only_1k and f"ImageNet-1K {only_1k}"),
            (f"{name}_22k", release_22k, 21841, f"ImageNet-1K {from_22k} when fine-tuned"),
            (f"{name}_22kto1k{tail}", release_22k, 1000, f"ImageNet-1K {from_22k}"),
        ]
        for stem, where, classes, published in files:
            if published:
                url = f"{_SWIN}/{where}/{stem}.pth"
                size = (window, window)
                yield Released(stem, url, f"swin_{variant}", size, classes, published, "microsoft")


def _swin_3d() -> Iterator[Released]:
    """The video models of SwinTransformer/Video-Swin-Transformer, as its README lists them."""
    rows = (
        ("tiny", (8, 7, 7), "kinetics400_1k", 400, "Kinetics-400 78.8 / 93.6"),
        ("small", (8, 7, 7), "kinetics400_1k", 400, "Kinetics-400 80.6 / 94.5"),
        ("base", (8, 7, 7), "kinetics400_1k", 400, "Kinetics-400 80.6 / 94.6"),
        ("base", (8, 7, 7), "kinetics400_22k", 400, "Kinetics-400 82.7 / 95.5"),
        ("base", (8, 7, 7), "kinetics600_22k", 600, "Kinetics-600 84.0 / 96.5"),
        ("base", (16, 7, 7), "kinetics400_22k", 400, "where the next one starts"),
        ("base", (16, 7, 7), "sthv2", 174, "Something-Something v2 69.6 / 92.7"),
    )
    for variant, window, data, classes, published in rows:
        name = f"swin_{variant}_patch244_window{''.join(map(str, window))}_{data}"
        url = f"{_SWIN}/v1.0.4/{name}.pth"
        yield Released(name, url, f"swin_{variant}", window, classes, published, "microsoft")


def _torchvision() -> Iterator[Released]:
    """Torchvision's; the digits in its file names are the first of the SHA-256."""
    rows = (
        ("swin_t", "704ceda3", "tiny", "ImageNet-1K 81.474 / 95.776"),
        ("swin_s", "5e29d889", "small", "ImageNet-1K 83.196 / 96.360"),
        ("swin_b", "68c6b09e", "base", "ImageNet-1K 83.582 / 96.640"),
        ("swin3d_t", "7615ae03", "tiny", "Kinetics-400 77.715 / 93.519"),
        ("swin3d_s", "da41c237", "small", "Kinetics-400 79.521 / 94.158"),
        ("swin3d_b_1k", "24f7c7c6", "base", "Kinetics-400 79.427 / 94.386"),
        ("swin3d_b_22k", "7c6ae6fa", "base", "Kinetics-400 81.643 / 95.574"),
    )
    for name, digits, variant, published in rows:
        window, classes = ((8, 7, 7), 400) if "3d" in name else ((7, 7), 1000)
        yield Released(
            name=name,
            url=f"{_TORCHVISION}/{name}-{digits}.pth",
            variant=f"swin_{variant}",
            window=window,
            num_classes=classes,
            published=published,
            source="torchvision",
            sha256=digits,
        )


def _mmaction2() -> Iterator[Released]:
    """Those that mmaction2 1.x trained again, as its configs/recognition/swin/README.md says."""
    amp = "amp-32x2x1-30e_kinetics"
    rows = (
        (f"swin-tiny-p244-w877_in1k-pre_8xb8-{amp}400", "20220930-241016b2", 400, "78.90 / 93.77"),
        (f"swin-small-p244-w877_in1k-pre_8xb8-{amp}400", "20220930-e91ab986", 400, "80.54 / 94.46"),
        (f"swin-base-p244-w877_in1k-pre_8xb8-{amp}400", "20220930-182ec6cc", 400, "80.57 / 94.49"),
        (
            f"swin-large-p244-w877_in22k-pre_8xb8-{amp}400",
            "20220930-78ad8b11",
            400,
            "83.46 / 95.91",
        ),
        (
            f"swin-large-p244-w877_in22k-pre_16xb8-{amp}700",
            "20220930-f8d74db7",
            700,
            "75.92 / 92.72",
        ),
        (
            f"swin-small-p244-w877_in1k-pre_32xb4-{amp}710",
            "20230612-8e082ff1",
            710,
            "76.90 / 92.96",
        ),
    )
    for stem, date, classes, published in rows:
        name, variant = f"{stem}-rgb", f"swin_{stem.split('-')[1]}"
        url = f"{_MMACTION}/{name}/{name}_{date}.pth"
        said = f"Kinetics-{classes} {published}"
        yield Released(name, url, variant, (8, 7, 7), classes, said, "mmaction2")


def _file_name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


RELEASED = {
    released.name: released
    for family in (_swin_2d, _swin_3d, _torchvision, _mmaction2)
    for released in family()
}


def find(name: str) -> Released:
    """The released file called `name`: as in `RELEASED` or as its file, with or without `.pth`.

    Raises:
      InputError: there is none; the near names are said.
    """
    stem = name.removesuffix(".pth")
    by_file = {released.file.removesuffix(".pth"): released for released in RELEASED.values()}
    found = RELEASED.get(stem) or by_file.get(stem)
    if found is None:
        raise unknown_name("released checkpoint", name, RELEASED)
    return found


def is_url(text: str) -> bool:
    """Whether `text` names a place on a network, rather than a file or a released checkpoint."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def cache_directory() -> Path:
    """Where downloads are kept: `VSWIN_CACHE`, or `~/.cache/vswin_jax`."""
    return Path(os.environ.get("VSWIN_CACHE") or "~/.cache/vswin_jax").expanduser()


def fetch(name_or_url: str, cache: str | os.PathLike[str] | None = None) -> Path:
    """The local file of a released checkpoint or of a URL, downloaded if it is not there yet.

    The SHA-256 of what was downloaded is kept beside it in `<file>.sha256`, as `sha256sum` writes
    it; later calls compare size and time of change, and the digest itself where those differ.

    Args:
      name_or_url: a name that `find` knows, or an http or https URL.
      cache: the directory of downloads, by default `cache_directory()`.

    Raises:
      InputError: no such name, no connection, not the file that was expected, or one in the cache
        that has changed; the sentence says where to put the file by hand.
    """
    cache = Path(cache) if cache else cache_directory()
    released = _released(name_or_url)
    url, path = (
        (name_or_url, cache / _folder(name_or_url) / _checked_file_name(name_or_url))
        if released is None
        else (_mirrored(released), cache / released.file)
    )
    size, sha256 = (released.size, released.sha256) if released else (None, None)
    if not path.exists():
        download(url, path, expected_size=size, sha256=sha256)
    digests.verify(path, sha256)
    return path


def _released(name_or_url: str) -> Released | None:
    if not is_url(name_or_url):
        return find(name_or_url)
    return next((r for r in RELEASED.values() if r.url == name_or_url), None)


def _mirrored(released: Released) -> str:
    mirror = os.environ.get("VSWIN_MIRROR")
    return f"{mirror.rstrip('/')}/{released.file}" if mirror else released.url


def _folder(url: str) -> str:
    # Many URLs end in the same name, `model.safetensors` for one.
    return hashlib.sha256(url.encode()).hexdigest()[:12]


def _checked_file_name(url: str) -> str:
    try:
        name = _file_name(url)
    except ValueError:
        name = ""
    if name in ("", ".", "..") or "\0" in name:
        raise InputError(f"Expected the URL of a checkpoint file but {url!r} names no file.")
    return name
