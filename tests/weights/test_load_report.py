"""The load report as summary, JSON and table."""

import json
from dataclasses import replace

from vswin_jax.weights import LoadReport, LoadReportEntry

REPORT = LoadReport(
    "swin.pth",
    "timm",
    (
        LoadReportEntry(
            "patch_embed.proj.weight", "transformed", ("patch_embed.proj.weight",), "repeated"
        ),
        *(
            LoadReportEntry(f"t{i}.table", "transformed", (f"t{i}.table",), "resized")
            for i in range(3)
        ),
        LoadReportEntry("norm.weight", "matched", ("norm.weight",)),
        LoadReportEntry("head.weight", "fresh", ("head.fc.weight",), "fresh, 1000 classes"),
        LoadReportEntry("head.bias", "fresh", ("head.fc.bias",), "fresh, 1000 classes"),
        LoadReportEntry("mask_token", "unexpected", ("mask_token",)),
    ),
)


def test_the_summary_has_counts_and_each_change_once() -> None:
    assert REPORT.summary().splitlines() == [
        "swin.pth (timm): 1 matched, 4 transformed, 2 fresh, 1 unexpected.",
        "  patch_embed.proj.weight: repeated; 3 tables: resized; head.weight and head.bias: fresh, "
        "1000 classes; mask_token: left out.",
    ]
    noted = replace(REPORT, notes=("removed 'model.' from 9 of 9 names",))
    lines = REPORT.summary().splitlines()
    assert noted.summary().splitlines() == [
        lines[0],
        "  removed 'model.' from 9 of 9 names.",
        lines[1],
    ]
    plain = LoadReport(
        "a",
        "original",
        (LoadReportEntry("norm.weight", "matched"), LoadReportEntry("x", "missing")),
    )
    assert plain.summary() == (
        "a (original): 1 matched, 0 transformed, 0 fresh, 1 missing, 0 unexpected."
    )


def test_the_json_has_the_whole_report() -> None:
    written = json.loads(json.dumps(REPORT.to_json()))
    assert (written["source"], written["layout"]) == ("swin.pth", "timm")
    assert written["counts"] == {
        "matched": 1,
        "transformed": 4,
        "fresh": 2,
        "missing": 0,
        "unexpected": 1,
    }
    assert len(written["tensors"]) == 8
    assert written["tensors"][5] == {
        "name": "head.weight",
        "status": "fresh",
        "source_names": ["head.fc.weight"],
        "how": "fresh, 1000 classes",
    }


def test_the_table_has_a_line_for_each_tensor() -> None:
    lines = REPORT.table().splitlines()
    assert len(lines) == 9
    assert lines[0].split() == ["status", "tensor", "in", "the", "file", "how"]
    assert lines[6].split(maxsplit=3) == [
        "fresh",
        "head.weight",
        "head.fc.weight",
        "fresh, 1000 classes",
    ]


def test_names_by_status() -> None:
    assert REPORT.named("fresh") == ("head.weight", "head.bias")
    assert REPORT.count("missing") == 0
