"""The division of a data set into shards, and of the shards among processes.

A shard holds neighbouring videos of the data set. Its batches hold no other videos, so its content
does not depend on the process that computes it, nor on where an earlier start has ended.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vswin_jax.data.example import Source
from vswin_jax.errors import InputError
from vswin_jax.inference.video_lists import SomeVideos

# About the bytes of a shard, where the caller does not say how many videos one has.
_SHARD_BYTES = 256 << 20
_MAX_VIDEOS = 1000


class Piece(NamedTuple):
    """The share of one of `count` processes, numbered from 1; written as "2/4"."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Piece":
        """Parse a share such as "2/4".

        Raises:
          InputError: it is none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        piece = cls(*map(int, match.groups())) if match else cls(0, 0)
        if 1 <= piece.number <= piece.count:
            return piece
        raise InputError(
            f"Expected the share of a process as I/N, with I from 1 to N, such as 2/4, but "
            f"{text!r} came: correct it."
        )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class ShardPlan:
    """The shards of a data set of `num_videos`."""

    num_videos: int
    videos_per_shard: int

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return -(-self.num_videos // self.videos_per_shard)

    def name(self, shard: int) -> str:
        """Return the name of a shard's file without its suffix."""
        return f"shard-{shard:05d}-of-{self.num_shards:05d}"

    def videos(self, shard: int) -> range:
        """Return the indices of a shard's videos."""
        start = shard * self.videos_per_shard
        return range(start, min(start + self.videos_per_shard, self.num_videos))

    def shards_of(self, piece: Piece) -> range:
        """Return the shards of a process: every N-th one."""
        return range(piece.number - 1, self.num_shards, piece.count)


def default_videos_per_shard(video_bytes: int) -> int:
    """Return the number of videos whose features have the usual size of a shard."""
    return max(1, min(_MAX_VIDEOS, _SHARD_BYTES // video_bytes))


class ShardStream(SomeVideos):
    """A `Source` of the videos of several shards, in which every batch is of one shard.

    The last video of a shard is repeated to fill its last batch.
    """

    def __init__(
        self, source: Source, plan: ShardPlan, shards: Sequence[int], batch_size: int
    ) -> None:
        self._videos: list[int] = []
        self._shards: list[int] = []
        self._ends: dict[int, int] = {}
        for shard in shards:
            videos = [*plan.videos(shard)]
            videos += videos[-1:] * (-len(videos) % batch_size)
            self._videos += videos
            self._shards += [shard] * len(videos)
            self._ends[shard] = len(self._videos) - 1
        super().__init__(source, self._videos)

    def video(self, position: int) -> int:
        """Return the index in the data set of the video at a position."""
        return self._videos[position]

    def shard(self, position: int) -> int:
        """Return the shard of the video at a position."""
        return self._shards[position]

    def end(self, shard: int) -> int:
        """Return the last position of a shard."""
        return self._ends[shard]

    def is_repeated(self, position: int) -> bool:
        """Return True for a video that only fills a batch."""
        return position > 0 and self._videos[position] == self._videos[position - 1]
