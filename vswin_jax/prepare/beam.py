"""The preparation as an Apache Beam pipeline: the same functions as in `job`, so the same bytes.

The output must be on a file system that all workers see under the same path. Workers get the
indices of examples and read the examples from the sources, which the pipeline's launcher pickles
into the output.
"""

import functools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from vswin_jax.data.example import Source
from vswin_jax.prepare.shard_plan import PreparePlan, Shard, load_plan
from vswin_jax.prepare.work import WORK, PrepareTask, finish_shard, prepare_video
from vswin_jax.runtime.atomic_write import atomic_write

_SOURCES_FILE = "sources.pickle"


def run_pipeline(
    plan: PreparePlan,
    shards: Sequence[Shard],
    sources: Mapping[str, Source],
    out: Path,
    options: Sequence[str],
) -> None:
    """Prepare the videos of the shards and write the shards; return when all are written."""
    if not shards:
        return
    with atomic_write(out / WORK / _SOURCES_FILE, sync=True) as partial:
        partial.write_bytes(pickle.dumps(dict(sources)))
    path = str(out.absolute())
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        videos = (
            pipeline
            | "shards" >> beam.Create([tuple(shard) for shard in shards])
            | "videos" >> beam.FlatMap(functools.partial(_videos, path))
            # Without a reshuffle one worker would prepare all videos of a shard.
            | "spread" >> beam.Reshuffle()
            | "prepare" >> beam.Map(functools.partial(_prepare_video, path))
        )
        _ = (
            videos
            | "gather" >> beam.GroupByKey()
            | "finish" >> beam.Map(functools.partial(_finish_shard, path))
        )


def _videos(out: str, shard: tuple[str, int]) -> Iterator[tuple[tuple[str, int], int]]:
    for index in load_plan(out).indices(Shard(*shard)):
        yield shard, index


def _prepare_video(out: str, video: tuple[tuple[str, int], int]) -> tuple[tuple[str, int], int]:
    shard, index = Shard(*video[0]), video[1]
    prepare_video(out, PrepareTask(shard, _load_sources(out)[shard.split][index]))
    return video


def _finish_shard(out: str, videos: tuple[tuple[str, int], object]) -> None:
    finish_shard(out, Shard(*videos[0]))


@functools.lru_cache(maxsize=1)
def _load_sources(out: str) -> dict[str, Source]:
    return pickle.loads((Path(out) / WORK / _SOURCES_FILE).read_bytes())
