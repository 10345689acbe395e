"""`scripts/draw_windows.py`: the picture in the documentation is that of the geometry of today."""

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "draw_windows.py"


def test_the_picture_is_that_of_todays_geometry() -> None:
    script = runpy.run_path(str(SCRIPT))
    drawn = script["picture"]()
    assert script["PICTURE"].read_text() == drawn, "run python scripts/draw_windows.py"
    # 4x8x8 tokens in windows of half that size: the shift cuts each axis into three parts.
    assert "8 windows, 27 segments" in drawn
