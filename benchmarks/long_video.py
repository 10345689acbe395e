"""Timelines of long videos: speed and memory over hours, and segments of known classes.

    python benchmarks/long_video.py runs/quickstart --json benchmarks/results/long_video.json

RUN is the directory of a run on moving_shapes, such as that of experiments/quickstart.py.

- `speed`: a video of --minutes with 640x360 pixels and 24 frames a second (H.264, one minute of
  moving shapes again and again). In turns: decoding all of its frames and nothing else, by FFmpeg
  through PyAV with a thread for each CPU, and the command `timeline` with its start, at a stride
  of a second. Memory is that of the command and its processes; pages that they share count by
  their share (PSS).
- `segments`: scenes of the test kind, 2 to 5 seconds of a class each, joined to one video. Printed
  are the share of the time in which a segment has the right class, and the distance of the borders
  of each scene from those of the longest segment of its class within it, in strides.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import jax
import numpy as np
from json_files import write_json

import vswin_jax
from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, make_scene, render
from vswin_jax.errors import InputError
from vswin_jax.inference import Segment, Timeline
from vswin_jax.runtime.cpu_count import usable_cpus
from vswin_jax.runtime.script_parser import positive_int, print_error, script_parser, writable_file

WIDTH, HEIGHT, RATE = 640, 360, 24
MINUTE = 60 * RATE  # frames
SIDE, SLOW_RATE = 64, 12  # of the quickstart's own videos
# Strides and smoothing of the segments, in seconds.
SETTINGS = ((1.0, 0.0), (1.0, 2.0), (0.25, 2.0))
DECODE = """
import sys, av
with av.open(sys.argv[1]) as container:
    stream = container.streams.video[0]
    stream.thread_type, stream.thread_count = "AUTO", int(sys.argv[2])
    print(sum(1 for _ in container.decode(stream)))
"""


def shapes(seed: int, motion: str, num_frames: int) -> np.ndarray:
    """Render frames `[num_frames, 64, 64, 3]` of one scene."""
    return render(make_scene(np.random.default_rng(seed), SIDE), MOTIONS[motion], num_frames)


def write_minute(path: Path) -> None:
    """Write a minute of eight scenes side by side, with a key frame every five seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = 5 * RATE
        scenes = [shapes(seed, motion, MINUTE) for seed, motion in enumerate(MOTIONS)]
        rows = [np.concatenate(scenes[k : k + 4], axis=2) for k in (0, 4)]
        for picture in np.concatenate(rows, axis=1):
            large = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        container.mux(stream.encode())


def repeat_video(path: Path, minute: Path, times: int) -> None:
    """Write the packets of a video several times, one after another."""
    with av.open(str(minute)) as source, av.open(str(path), "w") as container:
        stream = source.streams.video[0]
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in source.demux(stream)
            if packet.size
        ]
        copy = container.add_stream_from_template(stream)
        length = round(60 / stream.time_base)
        for index in range(times):
            for content, pts, dts, is_keyframe in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts = pts + index * length, dts + index * length
                packet.time_base, packet.is_keyframe = stream.time_base, is_keyframe
                packet.stream = copy
                container.mux(packet)


def measure_speed(run: Path, directory: Path, minutes: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of decoding and of the command, their ratio, and the memory."""
    video = directory / "hours.mp4"
    write_minute(directory / "minute.mp4")
    repeat_video(video, directory / "minute.mp4", minutes)
    decoding, timeline, memory = [], [], []
    for _ in range(rounds):
        seconds, _ = timed_run("-c", DECODE, str(video), str(usable_cpus()))
        decoding.append(seconds)
        command = ("-m", "vswin_jax.timeline", str(video), f"--checkpoint={run}")
        seconds, peak = timed_run(*command)
        timeline.append(seconds)
        memory.append(peak / 1e6)
        print(f"decoding {decoding[-1]:.1f} s, timeline {seconds:.1f} s, {memory[-1]:.0f} MB")
    frames = minutes * MINUTE
    return {
        "minutes": minutes,
        "frames": frames,
        "decode_s": decoding,
        "timeline_s": timeline,
        "timeline_frames_per_s": round(frames / median(timeline), 1),
        "speed_over_decoding": round(median(decoding) / median(timeline), 3),
        "peak_mb": [round(peak, 1) for peak in memory],
    }


def timed_run(*arguments: str) -> tuple[float, int]:
    """Run Python; return the seconds and the peak memory of it and its children, in bytes."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log)
        peaks = [0]
        watcher = threading.Thread(target=watch_memory, args=(process, peaks))
        watcher.start()
        status = process.wait()
        seconds = time.perf_counter() - start
        watcher.join()
        if status:
            log.seek(0)
            raise InputError(f"{arguments} ended with an error: {log.read().decode()[-2000:]}")
    return seconds, peaks[0]


def watch_memory(process: "subprocess.Popen[bytes]", peaks: list[int]) -> None:
    """Keep the largest memory of a process and its children in `peaks`, until it ends."""
    while process.poll() is None:
        peaks[0] = max(peaks[0], sum(map(resident_bytes, family(process.pid))))
        time.sleep(0.5)


def family(pid: int) -> Iterator[int]:
    """Yield the number of a process and those of its children, of all generations."""
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for t in threads for child in (t / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield from family(child)


def resident_bytes(pid: int) -> int:
    """Return the memory of a process, in which shared pages count by their share (PSS)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def write_joined(path: Path, parts: int) -> list[tuple[float, float, str]]:
    """Write a video of scenes with known classes; return the (start, end, class) of each."""
    rng = np.random.default_rng(0)
    truth: list[tuple[float, float, str]] = []
    names = list(MOTIONS)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=SLOW_RATE, options={"qp": "22"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        position = 0
        for seed in range(parts):
            others = [name for name in names if not truth or name != truth[-1][2]]
            motion = others[rng.integers(len(others))]
            count = int(rng.integers(2 * SLOW_RATE, 5 * SLOW_RATE))
            for picture in shapes(1_000_000 + seed, motion, count):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = position, Fraction(1, SLOW_RATE)
                container.mux(stream.encode(frame))
                position += 1
            truth.append(((position - count) / SLOW_RATE, position / SLOW_RATE, motion))
        container.mux(stream.encode())
    return truth


def measure_segments(run: Path, directory: Path, parts: int) -> list[dict[str, Any]]:
    """Return how well the segments of a joined video are found, for each stride."""
    truth = write_joined(directory / "joined.mp4", parts)
    return [compare(directory / "joined.mp4", run, setting, truth) for setting in SETTINGS]


def compare(
    video: Path,
    run: Path,
    setting: tuple[float, float],
    truth: Sequence[tuple[float, float, str]],
) -> dict[str, Any]:
    """Compare the segments of a video with the true ones."""
    stride, smooth = setting
    found = vswin_jax.timeline(video, run, stride=stride, smooth=smooth)
    distances = [
        distance / stride
        for scene in truth
        if (part := longest_within(found, *scene)) is not None
        for distance in (abs(part.start - scene[0]), abs(part.end - scene[1]))
    ]
    return {
        "parts": len(truth),
        "segments": len(found.segments),
        "stride_s": stride,
        "smooth_s": smooth,
        "right_class_share_of_time": round(right_share(found, truth), 4),
        "median_distance_in_strides": round(median(distances), 3),
        "largest_distance_in_strides": round(max(distances), 3),
        "borders_within_a_stride": sum(distance <= 1 for distance in distances),
        "borders": len(distances),
    }


def longest_within(found: Timeline, start: float, end: float, label: str) -> Segment | None:
    """Return the segment of a class that shares most time with a scene, or None."""
    parts = [part for part in found.segments if part.label == label]
    shared = [min(end, part.end) - max(start, part.start) for part in parts]
    return parts[int(np.argmax(shared))] if parts and max(shared) > 0 else None


def right_share(found: Timeline, truth: Sequence[tuple[float, float, str]]) -> float:
    """Return the share of the time in which the segments have the true class."""
    right = sum(
        max(0.0, min(end, part.end) - max(start, part.start))
        for start, end, label in truth
        for part in found.segments
        if part.label == label
    )
    return right / truth[-1][1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the results and write the file of --json."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--minutes", type=positive_int, default=120, help="of the video (120)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="of the speed (3)")
    parser.add_argument("--parts", type=positive_int, default=40, help="of the joined video (40)")
    parser.add_argument("--json", type=writable_file, metavar="FILE")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            results = {
                "segments": measure_segments(options.run, Path(folder), options.parts),
                "speed": measure_speed(options.run, Path(folder), options.minutes, options.rounds),
            }
        except InputError as error:
            return print_error(error)
    print(json.dumps(results, indent=1))
    versions = {"python": sys.version.split()[0], "jax": jax.__version__, "cpus": usable_cpus()}
    write_json(options.json, versions | results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
