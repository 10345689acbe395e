"""Exact evaluation: every video of a set once, whatever the batch size and the device count.

Each video's views are averaged by the step (softmax per view, then the mean: facts section 5.3);
here the rows of all hosts come together, padding is dropped, and what remains is checked to be the
whole set.
"""

import csv
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from vswin_jax import metrics, plots
from vswin_jax.progress import Progress
from vswin_jax.whole_file import whole_file

log = logging.getLogger(__name__)

Batch = Mapping[str, np.ndarray]
EvalStep = Callable[[Any, Mapping[str, jax.Array]], Mapping[str, jax.Array]]


@dataclass(frozen=True)
class Evaluation:
    """What a model said about every video of a set, in the order of the set.

    labels: int `[N]`; probabilities: float32 `[N, K]`, averaged over views; losses: float32 `[N]`.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    @cached_property
    def predicted(self) -> np.ndarray:
        """The most probable class of each video, int `[N]`."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Counts int64 `[K, K]`: row the true class, column the predicted one."""
        classes = self.probabilities.shape[1]
        return metrics.confusion_matrix(self.predicted, self.labels, classes)

    @property
    def top1(self) -> float:
        """The share of videos whose most probable class is the right one."""
        return metrics.top_k_accuracy(self.probabilities, self.labels, 1)

    @property
    def top5(self) -> float:
        """The share of videos whose class is among the five most probable (all, if fewer)."""
        return metrics.top_k_accuracy(self.probabilities, self.labels, 5)

    @property
    def mean_class_accuracy(self) -> float:
        """The accuracy of each class that occurs, averaged over those classes."""
        return metrics.mean_class_accuracy(self.confusion)

    @property
    def loss(self) -> float:
        """The mean over videos, in nats."""
        return float(self.losses.mean(dtype=np.float64))

    def summary(self) -> dict[str, float]:
        """The scores by name, and the number of videos they are of."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
            "videos": len(self.labels),
        }

    def save(
        self,
        directory: str | os.PathLike,
        names: Sequence[str],
        label_names: Sequence[str],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes summary.json (with `extra`), predictions.csv, confusion.csv and confusion.png.

        `names` are the videos' in the order of the set. summary.json comes last: where it is, the
        other files are complete.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        _write_csv(directory / "predictions.csv", self._prediction_rows(names, label_names))
        matrix = zip(label_names, self.confusion.tolist(), strict=True)
        rows = ([name, *counts] for name, counts in matrix)
        _write_csv(directory / "confusion.csv", [["true \\ predicted", *label_names], *rows])
        plots.save_confusion(directory / "confusion.png", self.confusion, label_names)
        summary = json.dumps({**self.summary(), **(extra or {})}, indent=2)
        with whole_file(directory / "summary.json") as partial:
            partial.write_text(summary + "\n")

    def _prediction_rows(
        self, names: Sequence[str], label_names: Sequence[str]
    ) -> Iterator[list[Any]]:
        top = min(5, len(label_names))
        columns = [f"{what}_{k}" for k in range(1, top + 1) for what in ("class", "probability")]
        yield ["video", "label", "predicted", "loss", *columns]
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top]
        for row, name in enumerate(names):
            pairs = ((label_names[k], f"{self.probabilities[row, k]:.6f}") for k in ranked[row])
            label, predicted = label_names[self.labels[row]], label_names[ranked[row, 0]]
            loss = f"{self.losses[row]:.6f}"
            yield [name, label, predicted, loss, *(cell for pair in pairs for cell in pair)]


def evaluate(
    eval_step: EvalStep,
    params: Any,
    batches: Iterable[Batch],
    *,
    num_examples: int,
    place: Callable[[Batch], Mapping[str, jax.Array]],
) -> Evaluation:
    """Runs every batch and returns the `Evaluation` of all `num_examples` videos, on every host.

    `batches` follow the batch contract (padded rows have mask 0), as many on every host; `place`
    puts one on the devices. The results of a batch are read while the next one runs.

    Raises:
        RuntimeError: if the batches do not hold each of the ids 0 to num_examples - 1 once.
    """
    parts: list[dict[str, np.ndarray]] = []
    progress = Progress(num_examples, lambda line: log.info("evaluated %s", line), every=15.0)
    pending = None
    for batch in batches:
        placed = place(batch)
        running = {**eval_step(params, placed), **{k: placed[k] for k in ("id", "label", "mask")}}
        if pending is not None:
            parts.append(_real_rows(pending))
            progress.add(len(parts[-1]["id"]))
        pending = running
    if pending is not None:
        parts.append(_real_rows(pending))
    return _assemble(parts, num_examples)


def _real_rows(outputs: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The rows of all hosts whose mask is not 0, on this host."""
    rows = process_allgather(dict(outputs), tiled=True)
    real = rows.pop("mask") > 0
    return {name: values[real] for name, values in rows.items()}


def _assemble(parts: Sequence[Mapping[str, np.ndarray]], num_examples: int) -> Evaluation:
    ids = np.concatenate([part["id"] for part in parts]) if parts else np.zeros(0, np.int32)
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(ids[order], np.arange(num_examples)):
        raise RuntimeError(
            f"Evaluation must see each of {num_examples} videos once but saw {len(ids)} rows of "
            f"{len(np.unique(ids))} videos."
        )
    labels, probabilities, losses = (
        np.concatenate([part[name] for part in parts])[order]
        for name in ("label", "probabilities", "loss")
    )
    return Evaluation(labels, probabilities, losses)


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
