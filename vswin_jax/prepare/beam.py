"""The same job as an Apache Beam pipeline: the same functions, so the same bytes.

The output must be on a file system that all workers see under the same path. Workers get the
numbers of examples, and look them up in the sources, which the pipeline's start leaves there.
"""

import functools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from vswin_jax.data.example import Source
from vswin_jax.prepare.shard_plan import Plan, Shard, load_plan
from vswin_jax.prepare.work import WORK, Item, finish_shard, prepare_video
from vswin_jax.runtime.atomic_write import whole_file

_SOURCES_FILE = "sources.pickle"


def run_pipeline(
    plan: Plan,
    shards: Sequence[Shard],
    sources: Mapping[str, Source],
    out: Path,
    options: Sequence[str],
) -> None:
    """Prepares the videos of the shards and writes these; returns when all are written."""
    if not shards:
        return
    with whole_file(out / WORK / _SOURCES_FILE, sync=True) as partial:
        partial.write_bytes(pickle.dumps(dict(sources)))
    where = str(out.absolute())
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        videos = (
            pipeline
            | "shards" >> beam.Create([tuple(shard) for shard in shards])
            | "videos" >> beam.FlatMap(functools.partial(_videos, where))
            # Without it one worker would do all the videos of a shard.
            | "spread" >> beam.Reshuffle()
            | "prepare" >> beam.Map(functools.partial(_prepare, where))
        )
        _ = (
            videos
            | "gather" >> beam.GroupByKey()
            | "finish" >> beam.Map(functools.partial(_finish, where))
        )


def _videos(out: str, shard: tuple[str, int]) -> Iterator[tuple[tuple[str, int], int]]:
    for index in load_plan(out).indices(Shard(*shard)):
        yield shard, index


def _prepare(out: str, video: tuple[tuple[str, int], int]) -> tuple[tuple[str, int], int]:
    shard, index = Shard(*video[0]), video[1]
    prepare_video(out, Item(shard, _sources(out)[shard.split][index]))
    return video


def _finish(out: str, videos: tuple[tuple[str, int], object]) -> None:
    finish_shard(out, Shard(*videos[0]))


@functools.lru_cache(maxsize=1)
def _sources(out: str) -> dict[str, Source]:
    return pickle.loads((Path(out) / WORK / _SOURCES_FILE).read_bytes())
