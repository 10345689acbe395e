"""What train_step.py and inference.py print: every row, and ours beside the others."""

from collections.abc import Sequence

from kept_rows import Row


def line(row: Row) -> str:
    """A row of the table."""
    head = f"{row['variant']:8} {row['dtype']:8} {row['name']:21} {row['clips']:5}"
    if row["error"]:
        return f"{head}  {'out of memory' if row['out_of_memory'] else row['error']}"
    mfu = "-" if row["mfu"] is None else f"{100 * row['mfu']:.1f}"
    return (
        f"{head} {row['clips_per_s']:9.3f} {row['median_s']:9.4f} {row['min_s']:9.4f} "
        f"{row['max_s']:9.4f} {row['first_call_s']:8.1f} {row['peak_bytes'] / 1e9:8.2f} {mfu:>6}"
    )


HEAD = (
    f"{'variant':8} {'dtype':8} {'contender':21} {'clips':>5} {'clips/s':>9} {'median s':>9} "
    f"{'min':>9} {'max':>9} {'first s':>8} {'peak GB':>8} {'MFU %':>6}"
)


def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """Of each contender, variant and dtype the row with the most clips a second."""
    best: dict[tuple[str, ...], Row] = {}
    for row in rows:
        key = (row["variant"], row["dtype"], row["name"])
        if (
            not row["error"]
            and row["clips_per_s"] > best.get(key, {"clips_per_s": 0})["clips_per_s"]
        ):
            best[key] = row
    return list(best.values())


def comparison(rows: Sequence[Row]) -> list[str]:
    """For every model and dtype: ours beside each other contender, each at its best batch."""
    best = best_of_each(rows)
    return [
        f"{a['variant']} {a['dtype']}: {a['name']} (at {a['clips']}) has "
        f"{a['clips_per_s'] / b['clips_per_s']:.2f} times the clips/s of {b['name']} (at "
        f"{b['clips']}), with {a['peak_bytes'] / b['peak_bytes']:.2f} of its memory"
        for a in best
        for b in best
        if a["contender"] == "vswin_jax" != b["contender"]
        and (a["variant"], a["dtype"]) == (b["variant"], b["dtype"])
    ]
