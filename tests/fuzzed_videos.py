"""Opens mutated video files: `python tests/fuzzed_videos.py FOLDER FIRST_SEED COUNT`.

Prints the seed and the file of each mutation before opening it, because a crash or the time limit
ends the process, and counts of the outcomes as JSON at the end. Any exception but an InputError of
one sentence is a failure.
"""

import json
import resource
import signal
import sys
from collections import Counter
from pathlib import Path

import av
import numpy as np

from vswin_jax.data.decoding.decode import open_video, sample_frames
from vswin_jax.errors import InputError

SECONDS = 20  # of processor time for one file
MEMORY = 2 << 30  # bytes


def main(folder: Path, first_seed: int, count: int) -> None:
    files = sorted(folder.iterdir())
    # FFmpeg prints what is wrong with the files.
    av.logging.set_level(None)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    before = _peak_memory()
    outcomes: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng(seed)
        file = files[rng.integers(len(files))]
        print(seed, file.name, flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcomes[_read(mutate(file.read_bytes(), rng), rng)] += 1
    print(json.dumps({**outcomes, "megabytes": (_peak_memory() - before) >> 10}))


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file as transfers, disks and programs do, and in the numbers of its headers."""
    kind = rng.integers(7)
    size = len(data)
    start, length = int(rng.integers(size)), int(rng.integers(1, min(2000, size)))
    if kind == 0:
        return data[: start + 1]
    if kind == 1:
        return data[:start] + data[start + length :]
    if kind == 2:
        other = int(rng.integers(size))
        return data[:other] + data[start : start + length] + data[other:]
    result = np.frombuffer(data, np.uint8).copy()
    if kind == 3:
        result[rng.integers(size, size=20)] ^= 1 << rng.integers(8, size=20, dtype=np.uint8)
    elif kind == 4:
        number = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"][rng.integers(4)]
        result[start : start + 4] = np.frombuffer(number, np.uint8)[: size - start]
    else:
        # Most containers have their headers at the start, and mp4 often at the end.
        near = rng.integers(min(size, 1500), size=rng.integers(1, 8))
        result[near if kind == 5 else size - 1 - near] = rng.integers(256, size=len(near))
    return result.tobytes()


def _read(data: bytes, rng: np.random.Generator) -> str:
    try:
        with open_video(data, "file") as video:
            count = video.num_frames
            frames = [*sample_frames(video), *video.decode(rng.integers(count, size=2))]
            assert len(video.times) == count
    except InputError as error:
        message = str(error)
        assert message.endswith("."), message
        assert "\n" not in message, message
        return "errors"
    assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)
    return "videos"


def _peak_memory() -> int:
    """Return the largest memory of this process so far, in kilobytes on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
