"""Predictions of a model for every video of a set, their scores, and the files that hold them."""

import csv
import itertools
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int, Num

from vswin_jax.runtime.atomic_write import atomic_write
from vswin_jax.runtime.lazy_module import LazyModule
from vswin_jax.runtime.printable import printable
from vswin_jax.training import metrics

# Matplotlib takes a while to import.
plots = LazyModule("vswin_jax.reporting.plots")


@dataclass(frozen=True)
class _BaseEvaluation(ABC):
    """Predictions and losses of N videos of K classes, in the order of the set.

    Attributes:
      labels: true classes; the shape depends on the task.
      probabilities: averaged over views.
      losses: in nats.
      omitted: the reasons why other videos of the set cannot be read, by their index in it.
    """

    labels: Num[np.ndarray, "N ..."]
    probabilities: Float[np.ndarray, "N K"]
    losses: Float[np.ndarray, " N"]
    omitted: Mapping[int, str] = field(default_factory=dict)

    # Header of the cells that `_truth` returns.
    _truth_columns: ClassVar[tuple[str, ...]] = ()

    @property
    def loss(self) -> float:
        """The mean over videos, in nats."""
        return float(self.losses.mean(dtype=np.float64))

    @property
    def indices(self) -> Int[np.ndarray, " N"]:
        """The index in the set of each of the N videos."""
        total = len(self.labels) + len(self.omitted)
        return np.setdiff1d(np.arange(total), list(self.omitted))

    def _counts(self) -> dict[str, int]:
        omitted = {"omitted": len(self.omitted)} if self.omitted else {}
        return {"videos": len(self.labels), **omitted}

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """Return the scores and the numbers of videos and of omitted ones, if any, by name."""

    @abstractmethod
    def describe(self) -> str:
        """Format the scores as one line."""

    def save(
        self,
        directory: str | os.PathLike,
        names: Sequence[str],
        label_names: Sequence[str],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write summary.json (with `extra`), predictions.csv, and a table and a plot of classes.

        `names` are those of the N videos. summary.json is written last: if it exists, the other
        files are complete.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        _write_csv(directory / "predictions.csv", self._prediction_rows(names, label_names))
        self._save_classes(directory, label_names)
        values = {**self.summary(), "omitted": len(self.omitted), **(extra or {})}
        summary = json.dumps(values, indent=2)
        with atomic_write(directory / "summary.json") as partial:
            partial.write_text(summary + "\n")

    def _describe_videos(self) -> str:
        count = len(self.labels)
        omitted = len(self.omitted)
        return f"{count} of {count + omitted} videos" if omitted else f"{count} videos"

    @abstractmethod
    def _save_classes(self, directory: Path, label_names: Sequence[str]) -> None:
        """Write the files with the scores of each class."""

    def _prediction_rows(
        self, names: Sequence[str], label_names: Sequence[str]
    ) -> Iterator[list[Any]]:
        top = min(5, len(label_names))
        columns = [f"{cell}_{k}" for k in range(1, top + 1) for cell in ("class", "probability")]
        yield ["video", *self._truth_columns, "loss", *columns]
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top]
        for row, name in enumerate(names):
            top_classes = (
                (label_names[k], f"{self.probabilities[row, k]:.6f}") for k in ranked[row]
            )
            loss = f"{self.losses[row]:.6f}"
            truth = self._truth(row, best=int(ranked[row, 0]), label_names=label_names)
            yield [name, *truth, loss, *itertools.chain.from_iterable(top_classes)]

    @abstractmethod
    def _truth(self, row: int, best: int, label_names: Sequence[str]) -> list[str]:
        """Return the cells of `_truth_columns` of a video whose most probable class is `best`."""


@dataclass(frozen=True)
class Evaluation(_BaseEvaluation):
    """Predictions for a set of single-label videos; labels are int `[N]`."""

    _truth_columns = ("label", "predicted")

    @cached_property
    def predicted(self) -> Int[np.ndarray, " N"]:
        """The most probable class of each video."""
        return self.probabilities.argmax(axis=1)

    @cached_property
    def confusion(self) -> Int[np.ndarray, "K K"]:
        """Number of videos: the row is the true class, the column the predicted one."""
        num_classes = self.probabilities.shape[1]
        return metrics.confusion_matrix(self.predicted, self.labels, num_classes)

    @property
    def top1(self) -> float:
        """The share of videos whose most probable class is the true one."""
        return metrics.top_k_accuracy(self.probabilities, self.labels, 1)

    @property
    def top5(self) -> float:
        """The share of videos whose class is among the five most probable."""
        return metrics.top_k_accuracy(self.probabilities, self.labels, 5)

    @property
    def mean_class_accuracy(self) -> float:
        """The accuracy of each class that occurs, averaged over those classes."""
        return metrics.mean_class_accuracy(self.confusion)

    @property
    def has_top5(self) -> bool:
        """True if there are more than five classes, so that not every class is in the top five."""
        return self.probabilities.shape[1] > 5

    def summary(self) -> dict[str, float]:
        """Return the scores and the numbers of videos and of omitted ones, if any, by name."""
        return {
            "top1": self.top1,
            **({"top5": self.top5} if self.has_top5 else {}),
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
            **self._counts(),
        }

    def describe(self) -> str:
        """Format the scores as one line."""
        top5 = f", top-5 {self.top5:.2%}" if self.has_top5 else ""
        return (
            f"top-1 {self.top1:.2%}{top5}, mean class accuracy {self.mean_class_accuracy:.2%}, "
            f"loss {self.loss:.4f} on {self._describe_videos()}"
        )

    def _save_classes(self, directory: Path, label_names: Sequence[str]) -> None:
        """Write confusion.csv and confusion.png."""
        matrix = zip(label_names, self.confusion.tolist(), strict=True)
        rows = ([name, *counts] for name, counts in matrix)
        _write_csv(directory / "confusion.csv", [["true \\ predicted", *label_names], *rows])
        plots.save_confusion(directory / "confusion.png", self.confusion, label_names)

    def _truth(self, row: int, best: int, label_names: Sequence[str]) -> list[str]:
        return [label_names[self.labels[row]], label_names[best]]


@dataclass(frozen=True)
class MultiLabelEvaluation(_BaseEvaluation):
    """Predictions for a set of multi-label videos; labels are float32 `[N, K]` of 0 and 1."""

    _truth_columns = ("labels",)

    @cached_property
    def average_precisions(self) -> Float[np.ndarray, " K"]:
        """The average precision of each class; NaN for a class that no video has."""
        return metrics.average_precisions(self.probabilities, self.labels)

    @property
    def mean_average_precision(self) -> float:
        """The average precision of each class that occurs, averaged over those classes."""
        return metrics.mean_over_present(self.average_precisions)

    @property
    def hit1(self) -> float:
        """The share of videos whose most probable class is one of theirs, of those with any."""
        return metrics.hit_at_1(self.probabilities, self.labels)

    def summary(self) -> dict[str, float]:
        """Return the scores and the numbers of videos and of occurring classes, by name."""
        return {
            "mAP": self.mean_average_precision,
            "hit1": self.hit1,
            "loss": self.loss,
            **self._counts(),
            "classes": int(self.labels.any(axis=0).sum()),
        }

    def describe(self) -> str:
        """Format the scores as one line."""
        return (
            f"mAP {self.mean_average_precision:.2%}, hit@1 {self.hit1:.2%}, loss {self.loss:.4f} "
            f"on {self._describe_videos()}"
        )

    def _save_classes(self, directory: Path, label_names: Sequence[str]) -> None:
        """Write average_precision.csv and average_precision.png."""
        videos = self.labels.sum(axis=0).astype(int).tolist()
        cells = ["" if np.isnan(value) else f"{value:.6f}" for value in self.average_precisions]
        rows = zip(label_names, cells, videos, strict=True)
        header = ("class", "average_precision", "videos")
        _write_csv(directory / "average_precision.csv", [header, *rows])
        path = directory / "average_precision.png"
        plots.save_average_precisions(path, self.average_precisions, videos, label_names)

    def _truth(self, row: int, best: int, label_names: Sequence[str]) -> list[str]:
        return [";".join(label_names[k] for k in np.flatnonzero(self.labels[row]))]


AnyEvaluation = Evaluation | MultiLabelEvaluation


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with (
        atomic_write(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows([_cell(cell) for cell in row] for row in rows)


def _cell(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
