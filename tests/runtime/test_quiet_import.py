import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

NOISY = """
import os, sys
os.write(2, b"from C++\\n")
print("from Python", file=sys.stderr)
value = 7
"""
PROGRAM = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from vswin_jax.runtime.quiet_import import BackgroundImport, import_quietly
assert import_quietly("noisy").value == 7
os.write(2, b"afterwards\\n")
print("the end", file=sys.stderr)
background = BackgroundImport("noisier")
while background.module is None:
    time.sleep(0.01)
missing = BackgroundImport("missing_module")
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )


def test_only_the_messages_of_cpp_code_are_dropped(tmp_path: Path) -> None:
    for name in ("noisy", "noisier"):
        (tmp_path / f"{name}.py").write_text(NOISY)
    assert run(PROGRAM, tmp_path).stderr.splitlines() == [
        *("from Python", "afterwards", "the end"),
        "from Python",
    ]


def test_a_closed_stderr_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text("value = 7")
    closed = """
import os, sys
os.close(2)
sys.path.insert(0, sys.argv[1])
sys.stderr = None
from vswin_jax.runtime.quiet_import import import_quietly
print(import_quietly("noisy").value)
"""
    assert run(closed, tmp_path).stdout == "7\n"
