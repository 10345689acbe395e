import gc
import struct
import threading

import av
import pytest
from av.filter import Graph

from vswin_jax.data.decoding import filter_graphs
from vswin_jax.data.decoding.filter_graphs import Conversion, filter_graph

COS45 = 46341  # of 65536


def _conversion(width: int = 48, **changed: object) -> Conversion:
    plain = Conversion(
        pixel_format="yuv420p",
        width=width,
        height=32,
        colorspace=2,
        color_range=0,
        matrix=b"",
        cropping=b"",
        size=None,
    )
    return plain._replace(**changed)


def _convert(frame: av.VideoFrame, conversion: Conversion) -> av.VideoFrame:
    graph = filter_graph(conversion)
    graph.push(frame)
    return graph.pull()


@pytest.mark.parametrize(
    ("a", "b", "c", "d", "size"),
    [
        (1, 0, 0, 1, (48, 32)),
        (0, 1, -1, 0, (32, 48)),
        (0, 1, 1, 0, (32, 48)),
        (-1, 0, 0, 1, (48, 32)),
        (COS45 / 65536, COS45 / 65536, -COS45 / 65536, COS45 / 65536, (48, 32)),
        # Not a rotation: a picture cannot be shown with it.
        (0, 0, 0, 0, (48, 32)),
    ],
)
def test_display_matrices(a: float, b: float, c: float, d: float, size: tuple[int, int]) -> None:
    values = [int(value * 65536) for value in (a, b, 0, c, d, 0, 0, 0, 1 << 14)]
    matrix = struct.pack("=9i", *values)
    rgb = _convert(av.VideoFrame(48, 32, "yuv420p"), _conversion(matrix=matrix))
    assert (rgb.width, rgb.height, rgb.format.name) == (*size, "rgb24")


def test_cropping_comes_before_turning_and_scaling() -> None:
    matrix = struct.pack("=9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    cropping = struct.pack("<4I", 2, 4, 8, 10)  # top, bottom, left, right
    frame = av.VideoFrame(48, 32, "yuv420p")
    rgb = _convert(frame, _conversion(matrix=matrix, cropping=cropping))
    assert (rgb.width, rgb.height) == (26, 30)
    rgb = _convert(frame, _conversion(matrix=matrix, cropping=cropping, size=(20, 10)))
    assert (rgb.width, rgb.height) == (20, 10)


def test_a_graph_serves_the_frames_of_all_videos_of_a_kind() -> None:
    """Time stamps of another video may be smaller, and may be missing."""
    graph = filter_graph(_conversion())
    assert filter_graph(_conversion()) is graph
    for pts in (5, 100, 3, None, 3, 0):
        frame = av.VideoFrame(48, 32, "yuv420p")
        frame.pts = pts
        assert _convert(frame, _conversion()).format.name == "rgb24"


def test_threads_have_graphs_of_their_own() -> None:
    graphs = [filter_graph(_conversion())]
    thread = threading.Thread(target=lambda: graphs.append(filter_graph(_conversion())))
    thread.start()
    thread.join()
    assert graphs[0] is not graphs[1]


def test_graphs_of_many_kinds_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV's graphs are reference cycles: a collection that is rare would leave them for long."""
    monkeypatch.setattr(filter_graphs, "_PIXELS_PER_COLLECTION", 8 * 100 * 32)
    gc.collect()
    before = _count_graphs()
    gc.disable()
    try:
        for width in range(100, 118):
            filter_graph(_conversion(width))
        # Two of them are cached, up to eight wait for the next collection.
        assert _count_graphs() - before <= 10
    finally:
        gc.enable()


def _count_graphs() -> int:
    return sum(isinstance(item, Graph) for item in gc.get_objects())


def test_frames_that_cannot_be_converted() -> None:
    with pytest.raises(av.FFmpegError):
        filter_graph(_conversion(colorspace=14))
    with pytest.raises(av.FFmpegError):
        filter_graph(_conversion(cropping=struct.pack("<4I", 20, 20, 0, 0)))
