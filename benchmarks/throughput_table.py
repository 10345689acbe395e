"""Table and summary that train_step.py and inference.py print."""

from collections.abc import Sequence

from result_cache import Row

HEADER = (
    f"{'variant':8} {'dtype':8} {'contender':21} {'clips':>5} {'clips/s':>9} {'median s':>9} "
    f"{'min':>9} {'max':>9} {'first s':>8} {'peak GB':>8} {'MFU %':>6}"
)


def format_row(row: Row) -> str:
    """Return a line of the table, in the columns of `HEADER`."""
    head = f"{row['variant']:8} {row['dtype']:8} {row['name']:21} {row['clips']:5}"
    if row["error"]:
        return f"{head}  {'out of memory' if row['out_of_memory'] else row['error']}"
    mfu = "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f}"
    return (
        f"{head} {row['clips_per_s']:9.3f} {row['median_s']:9.4f} {row['min_s']:9.4f} "
        f"{row['max_s']:9.4f} {row['first_call_s']:8.1f} {row['peak_bytes'] / 1e9:8.2f} {mfu:>6}"
    )


def best_rows(rows: Sequence[Row]) -> list[Row]:
    """Return, for each variant, dtype and implementation, the row with the most clips/s."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row["variant"], row["dtype"], row["name"])
        if (
            not row["error"]
            and row["clips_per_s"] > best.get(key, {"clips_per_s": 0})["clips_per_s"]
        ):
            best[key] = row
    return list(best.values())


def compare_with_baselines(rows: Sequence[Row]) -> list[str]:
    """Return one line per variant, dtype and baseline; both sides at their best batch size."""
    best = best_rows(rows)
    return [
        f"{a['variant']} {a['dtype']}: {a['name']} (at {a['clips']}) has "
        f"{a['clips_per_s'] / b['clips_per_s']:.2f} times the clips/s of {b['name']} (at "
        f"{b['clips']}), with {a['peak_bytes'] / b['peak_bytes']:.2f} of its memory"
        for a in best
        for b in best
        if a["contender"] == "vswin_jax" != b["contender"]
        and (a["variant"], a["dtype"]) == (b["variant"], b["dtype"])
    ]
