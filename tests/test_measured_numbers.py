"""The tables of the documentation have the numbers of the files in `benchmarks/results`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MODELS = {"swin_tiny": "Swin-T", "swin_base": "Swin-B"}


def result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def rows_of(*pages: str) -> set[str]:
    """Return the rows of the tables of pages."""
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    return {line.strip() for line in text.splitlines() if line.startswith("|")}


def beside_torchvision() -> Iterator[str]:
    for name, title in (("inference", "inference"), ("train_step", "training step")):
        seconds = {(r["name"], r["dtype"]): r["median_s"] for r in result(name)}
        for dtype in sorted({dtype for _, dtype in seconds}):
            ours = seconds["vswin_jax", dtype]
            shown = f"{ours:.3f}" if ours < 1 else f"{ours:.2f}"
            others = (
                f"{seconds[f'torchvision {kind}', dtype] / ours:.2f} times as long"
                for kind in ("eager", "compiled")
            )
            yield f"| {title}, {dtype} | {shown} s | {' | '.join(others)} |"


def attention(name: str) -> Iterator[str]:
    rows = {(r["model"], r["backward"], r["implementation"]): r for r in result(name)["rows"]}
    implementations = list(dict.fromkeys(implementation for *_, implementation in rows))
    for model, title in MODELS.items():
        for backward, suffix in ((False, "forward"), (True, "forward and backward")):
            cells = (
                f"{significant(r['bytes'] / 1e9)} GB, {r['temporaries'] / 1e6:.0f} MB"
                for r in (rows[model, backward, name] for name in implementations)
            )
            yield f"| {title} {suffix} | {' | '.join(cells)} |"


def significant(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:.1f}"


def train_step(name: str, kernels: str) -> Iterator[str]:
    rows = {row["kernels"]: row for row in result(name)["rows"]}
    without, with_them = rows["none"], rows[kernels]
    for title, key, digits, scale, unit in (
        ("moved between the chip and its memory", "moved", 0, 1e9, "GB"),
        ("temporaries", "temporaries", 1, 1e9, "GB"),
        ("the least that the step takes", "roofline_seconds", 0, 1e-3, "ms"),
    ):
        cells = (f"{row[key] / scale:.{digits}f} {unit}" for row in (without, with_them))
        yield f"| {title} | {' | '.join(cells)} |"


def slices() -> Iterator[str]:
    titles = {
        "swin_t": "Swin-T",
        "swin_b_v5e": "Swin-B",
        "swin_b_v4": "Swin-B",
        "swin_l384": "Swin-L 384, data 16 x FSDP 16",
        "weak_16": "Swin-T, 16 clips per chip, on 16 chips",
        "weak_64": "on 64 chips",
        "weak_256": "on 256 chips",
    }
    for name, row in result("tpu_compile").items():
        needed, available = row["needed_bytes"] / 2**30, row["available_bytes"] / 2**30
        sent = row["wire_bytes"] / 1e6
        yield (
            f"| {titles[name]} | {row['topology']} | {row['batch']} "
            f"| {needed:.1f} GiB, {available:.1f} | {row['memory_traffic'] / 1e9:.0f} GB "
            f"| {f'{sent / 1e3:.2f} GB' if sent > 1e3 else f'{sent:.0f} MB'} "
            f"| {row['bound_seconds'] * 1e3:.0f} ms |"
        )


def startup() -> Iterator[str]:
    seconds = {row["name"]: row["median_s"] for row in result("startup")["rows"]}
    for command, title in (
        ("main", "`main`, quickstart: the first training step"),
        ("predict", "`predict` of one video, Swin-T, a clip of 16x224x224: its first line"),
    ):
        cold, warm = (seconds[f"{command}, {start}"] for start in ("cold", "warm"))
        yield f"| {title} | {cold:.1f} s | {warm:.1f} s |"


def preemption() -> Iterator[str]:
    runs = {run["processes"]: run for run in result("preemption")}
    assert all(run["bit_equal"] for run in runs.values())
    for moment, title in (
        ("compile", "while compiling"),
        ("save", "at a save"),
        ("step", "in a step"),
        ("evaluation", "in an evaluation"),
    ):
        signals = {
            count: [row for row in run["rows"] if row["moment"] == moment]
            for count, run in runs.items()
        }
        lost = sum(row["lost"] for rows in signals.values() for row in rows)
        slowest = (f"{max(row['seconds'] for row in signals[n]):.1f} s" for n in (1, 2))
        yield f"| {title} | {len(signals[1])} | {lost} | {' | '.join(slowest)} |"


def explanations() -> Iterator[str]:
    measured = result("explanations")
    for stage, shares in measured["mass_in_box"].items():
        yield (
            f"| {stage}{' (default)' if stage == 'stage 1' else ''} | {shares['trained']:.1%} "
            f"| {shares['random']:.1%} | {measured['box_share_of_area']:.1%} |"
        ).replace("%", " %")


def long_video() -> Iterator[str]:
    for row in result("long_video")["segments"]:
        share = f"{row['right_class_share_of_time']:.1%}".replace("%", " %")
        yield (
            f"| {row['stride_s']:g} | {row['smooth_s']:g} | {row['segments']} | {share} "
            f"| {row['borders_within_a_stride']} of {row['borders']} "
            f"| {row['median_distance_in_strides']:.2f} |"
        )


@pytest.mark.parametrize(
    ("rows", "page"),
    [
        (beside_torchvision(), "performance"),
        (attention("attention_v5e"), "performance"),
        (attention("attention_h200"), "performance"),
        (train_step("train_step_v5e", "all"), "performance"),
        (train_step("train_step_h200", "attention"), "performance"),
        (slices(), "performance"),
        (startup(), "performance"),
        (preemption(), "reliability"),
        (explanations(), "inference"),
        (long_video(), "inference"),
    ],
    ids=(
        *("torchvision", "v5e-attention", "h200-attention", "v5e", "h200", "slices"),
        *("startup", "preemption", "explanations", "long_video"),
    ),
)
def test_the_rows_of_a_table_are_those_of_the_results(rows: Iterator[str], page: str) -> None:
    computed = list(rows)
    assert len(computed) > 1
    assert [row for row in computed if row not in rows_of(f"docs/{page}.md")] == []


def test_the_readme_has_the_numbers_of_its_pages() -> None:
    written = set(re.findall(r"[\d.]+", "".join(rows_of("docs/index.md", "docs/performance.md"))))
    rows = [row for row in rows_of("README.md") if re.search(r"\d (%|s|times)", row)]
    shown = {number for row in rows if "](" not in row for number in re.findall(r"[\d.]+", row)}
    assert len(shown) > 10
    assert shown <= written
