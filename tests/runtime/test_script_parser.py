"""A misspelt argument of a command gets the near one."""

import pytest

from vswin_jax.runtime.script_parser import script_parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chekpoint", "x"], "unknown argument --chekpoint: did you mean --checkpoint?"),
        (["--chekpoint=x"], "unknown argument --chekpoint: did you mean --checkpoint?"),
        (["--nothing-alike"], "unknown argument --nothing-alike, see --help"),
        ([], "the following arguments are required: --checkpoint"),
    ],
)
def test_misspelt_arguments(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    parser = script_parser("Does a thing.")
    parser.add_argument("--checkpoint", required=True)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(arguments)
    assert capsys.readouterr().err.endswith(f"error: {message}\n")


def test_beginnings_and_what_follows_two_dashes_are_no_mistakes() -> None:
    parser = script_parser("Does a thing.")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("videos", nargs="*")
    options = parser.parse_args(["--check", "run", "--", "--odd.mp4"])
    assert (options.checkpoint, options.videos) == ("run", ["--odd.mp4"])
