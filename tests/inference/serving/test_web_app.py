"""The answers of a server: those of the Python functions, and sentences for wrong requests."""

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from attack_files import attacks, listener, write_secret
from http_client import ask, form, post, post_form
from PIL import Image

import vswin_jax
from vswin_jax.explain import explain
from vswin_jax.inference import Predictor, ServeSettings, VideoServer
from vswin_jax.timeline import timeline

if TYPE_CHECKING:
    from conftest import Run

pytest.importorskip("uvicorn", reason="the server is an extra")

MAX_MB = 0.3


@pytest.fixture(scope="module")
def video(tiny_run: "Run") -> Path:
    return next((tiny_run.workdir / "moving_shapes" / "test").glob("grow/*.mp4"))


@pytest.fixture(scope="module")
def server(tiny_run: "Run", tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoServer]:
    """Start the server; at the end, check that it has left no file and has not failed."""
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("uploads")
    settings = ServeSettings(
        port=0,
        max_mb=MAX_MB,
        allow_hosts=("videos.example",),
        allow_origins=("https://other.example",),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        server = VideoServer(lambda: Predictor(tiny_run.workdir), settings, lines.append)
        with server:
            yield server
            (directory,) = folder.iterdir()
            assert directory.stat().st_mode & 0o777 == 0o700
            assert list(directory.iterdir()) == []
    assert list(folder.iterdir()) == []
    assert [line for line in lines if " 500 " in line] == []


def test_the_same_classes_as_from_python(server: VideoServer, video: Path) -> None:
    expected = server.predictor(video)[0]
    by_form = post_form(f"{server.url}/predict", video.read_bytes())
    assert by_form.status == 200
    assert by_form.json["video"] == "clip.mp4"
    assert by_form.json["classes"] == list(expected.labels)
    np.testing.assert_allclose(by_form.json["probabilities"], expected.probabilities, atol=1e-6)
    by_body = post(f"{server.url}/predict?topk=2&name=a.mp4", in_parts(video.read_bytes()))
    assert by_body.json["video"] == "a.mp4"
    assert by_body.json["classes"] == list(expected.labels[:2])


def test_the_same_timeline_as_from_python(
    server: VideoServer, video: Path, tiny_run: "Run"
) -> None:
    expected = timeline(video, tiny_run.workdir, stride=0.25, crops=1, threshold=0.13)
    answer = post(
        f"{server.url}/timeline?stride=0.25&threshold=0.13&topk=3", video.read_bytes()
    ).json
    chosen = [expected.label_names.index(name) for name in answer["classes"]]
    assert chosen == expected.main_classes(3).tolist()
    windows = answer["windows"]
    np.testing.assert_allclose([w["start"] for w in windows], expected.starts, atol=1e-5)
    np.testing.assert_allclose([w["end"] for w in windows], expected.ends, atol=1e-5)
    rows = [w["probabilities"] for w in windows]
    np.testing.assert_allclose(rows, expected.probabilities[:, chosen], atol=1e-5)
    assert len(expected.segments) > 0
    for part, segment in zip(expected.segments, answer["segments"], strict=True):
        assert (part.label, round(part.start, 6)) == (segment["class"], segment["start"])
    assert answer["duration"] == pytest.approx(expected.duration)


def test_the_same_picture_as_from_python(
    server: VideoServer, video: Path, tiny_run: "Run", tmp_path: Path
) -> None:
    copy, strip = tmp_path / "clip.mp4", tmp_path / "strip.png"
    copy.write_bytes(video.read_bytes())
    for query, label in (("", None), ("&label=shrink", "shrink")):
        explain(copy, tiny_run.workdir, label=label, out=strip)
        answer = post(f"{server.url}/explain?name=clip.mp4{query}", copy.read_bytes())
        assert answer.headers["content-type"] == "image/png"
        # The second line of the caption names the folder too.
        expected, got = (pixels(content)[40:] for content in (strip.read_bytes(), answer.body))
        assert np.array_equal(got, expected)


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


def test_describes_itself(server: VideoServer, tiny_run: "Run") -> None:
    assert ask(f"{server.url}/health").json == {"status": "ok", "requests": 0}
    model = ask(f"{server.url}/model").json
    assert model["classes"] == list(server.predictor.model.label_names)
    assert (model["step"], model["max_bytes"]) == (40, 300_000)
    assert str(tiny_run.workdir) not in str(model)
    first, second = server.describe()
    assert first == f"serving swin_tiny (8 classes, step 40) at {server.url}"
    assert second.startswith("limits: videos of 0.3 MB, 300 seconds a request, 32 requests")


def test_the_page_needs_nothing_from_elsewhere(server: VideoServer) -> None:
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        answer = ask(f"{server.url}{path}")
        assert (answer.status, kind in answer.headers["content-type"]) == (200, True)
        assert b"http" not in answer.body.lower().replace(b"xmlhttprequest", b"")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("predict?topK=2", "Unknown option 'topK': did you mean 'topk'?"),
        ("predict?topk=some", "Expected topk to be a whole number but 'some' came"),
        ("predict?topk=0", "topk to be 1 or more"),
        ("explain?label=jump", "Unknown class 'jump'"),
        ("timeline?stride=0", "Expected the stride as seconds above 0"),
        ("timeline?stride=nan", "Expected the stride as seconds above 0"),
        ("timeline?window=4", "leave it away"),
        ("timeline?threshold=2", "Expected a threshold between 0 and 1"),
    ],
)
def test_wrong_options_are_refused_before_the_upload(
    server: VideoServer, query: str, words: str
) -> None:
    answer = post(f"{server.url}/{query}", b"no video")
    assert answer.status == 400
    assert words in answer.error


def test_wrong_bodies_are_refused(server: VideoServer, video: Path) -> None:
    content, url = video.read_bytes(), f"{server.url}/predict"
    assert post(url, b"").error.startswith("Expected a video but an empty file came")
    assert post_form(url, b"").status == 400
    assert "it has no field 'video'" in post_form(url, content, field="clip").error
    body, kind = form(content)
    for wrong, words in (
        (post(url, body[:-20], Content_Type=kind), "it ends before its last part does"),
        (post(url, body, Content_Type="multipart/form-data"), "no boundary"),
        (post(url, content, Content_Type=kind), "The form cannot be read"),
        (post(url, body, Content_Type=f"multipart/form-data; boundary={'x' * 500}"), "The form"),
    ):
        assert wrong.status == 400
        assert words in wrong.error
    twice = body.rpartition(b"--")[0].rpartition(b"--")[0] + body
    assert "it has the field 'video' twice" in post(url, twice, Content_Type=kind).error


def test_unreadable_videos_are_refused_with_the_clients_name(
    server: VideoServer, video: Path, tmp_path: Path
) -> None:
    content = video.read_bytes()
    for bad in (b"no video", content[: len(content) // 2], bytes(5000)):
        for path in ("predict", "explain", "timeline"):
            answer = post_form(f"{server.url}/{path}", bad, "../../etc/torn.mp4")
            assert answer.status == 422
            assert answer.error.startswith("'torn.mp4' ")
            assert "/tmp" not in answer.error


def test_playlists_and_references_open_nothing(server: VideoServer, tmp_path: Path) -> None:
    secret = write_secret(tmp_path)
    with listener() as (port, calls):
        for name, content in attacks(secret, port).items():
            for file_name in ("video.mp4", f"{name}.m3u8", str(secret)):
                answer = post_form(f"{server.url}/predict", content, file_name)
                assert answer.status == 422
    assert calls == []


def test_a_name_is_no_path(server: VideoServer, video: Path) -> None:
    content = video.read_bytes()
    for name in ("../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", str(video)):
        assert post_form(f"{server.url}/predict", content, name).status == 200
        answer = post(f"{server.url}/predict?name={name}", b"no video")
        assert answer.status == 422
        assert answer.error.startswith(f"'{name.rpartition('/')[2]}' ")


def test_odd_names_are_shown(server: VideoServer, video: Path) -> None:
    names = {"Größe 動画.mp4": "Größe 動画.mp4", "C:\\a\\b.mp4": "b.mp4"}
    names |= {"": "video", "a/..": "video"}
    for name, shown in names.items():
        answer = post_form(f"{server.url}/predict", video.read_bytes(), name)
        assert answer.json["video"] == shown
        assert post_form(f"{server.url}/explain", video.read_bytes(), name).status == 200
    body, kind = form(video.read_bytes(), "NAME")
    answer = post(f"{server.url}/predict", body.replace(b"NAME", b"\xff\x00a"), Content_Type=kind)
    assert answer.json["video"] == "\ufffd\\x00a"
    assert len(post(f"{server.url}/predict?name={'a' * 5000}", b"no").error) < 400


def test_large_videos_are_refused(server: VideoServer) -> None:
    url, large = f"{server.url}/predict", bytes(int(MAX_MB * 1e6) + 1)
    body, kind = form(large)
    for answer in (
        post(url, large),
        post(url, in_parts(large)),
        post(url, body, Content_Type=kind),
        post(url, in_parts(body), Content_Type=kind),
    ):
        assert answer.status == 413
        assert answer.error.startswith("Expected a video of at most 0.3 MB but this one is larger")


def in_parts(body: bytes) -> Iterator[bytes]:
    """Yield a body whose length is not told in advance."""
    return (body[k : k + 10_000] for k in range(0, len(body), 10_000))


def test_addresses_and_pages_of_others_are_refused(server: VideoServer, video: Path) -> None:
    own = server.url.removeprefix("http://")
    content = video.read_bytes()
    for headers, status in (
        ({}, 200),
        ({"Origin": server.url}, 200),
        ({"Origin": "https://other.example"}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "videos.example"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example", "Host": "evil.example"}, 403),
        ({"Origin": f"http://evil.{own}"}, 403),
    ):
        answer = post(f"{server.url}/predict", content, **headers)
        assert answer.status == status, headers
    assert "--allow-origin" in post(f"{server.url}/predict", b"", Origin="https://e.example").error
    assert "'evil.example'" in ask(f"{server.url}/model", Host="evil.example").error
    allowed = ask(f"{server.url}/model", Origin="https://other.example").headers
    assert allowed["access-control-allow-origin"] == "https://other.example"
    assert "access-control-allow-origin" not in ask(f"{server.url}/model").headers


def test_other_paths_and_methods_are_sentences(server: VideoServer) -> None:
    assert ask(f"{server.url}/page/../../secret").error.endswith("is not served (Not Found).")
    answer = ask(f"{server.url}/predict")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.error == "GET /predict is not served (Method Not Allowed)."
    assert ask(f"{server.url}/", "HEAD").body == b""


def test_the_module_is_the_function() -> None:
    assert vswin_jax.serve.__signature__.parameters["port"].default == 8000
