"""Names of the files of videos."""

from vswin_jax.inference.feature_files.npy_names import npy_files


def test_the_suffix_of_a_video_is_replaced_and_common_folders_are_left_out() -> None:
    assert npy_files(["/data/run/a.mp4", "/data/walk/b.x.avi"]) == ("run/a.npy", "walk/b.x.npy")
    assert npy_files(["../../clips/frames.v2"]) == ("frames.v2.npy",)
    assert npy_files([r"C:\clips\a.mkv", r"C:\clips\sub\b.mkv"]) == ("a.npy", "sub/b.npy")


def test_different_videos_have_different_files() -> None:
    assert npy_files(["a.mp4", "a.avi", "b.mp4"]) == ("a.mp4.npy", "a.avi.npy", "b.npy")
    assert npy_files(["a.mp4", "A.mp4"]) == ("a.mp4.0.npy", "A.mp4.1.npy")
    assert npy_files(["x/a.mp4", "x/a.mp4", ""]) == ("x/a.mp4.0.npy", "x/a.mp4.1.npy", "video.npy")
