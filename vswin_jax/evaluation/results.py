"""What a model said about every video of a set, what that is worth, and the files that tell it."""

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vswin_jax.reporting import plots
from vswin_jax.runtime.atomic_write import whole_file
from vswin_jax.training import metrics


@dataclass(frozen=True)
class _Answers(ABC):
    """What evaluations of single labels and of sets of labels have in common."""

    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    @property
    def loss(self) -> float:
        """The mean over videos, in nats."""
        return float(self.losses.mean(dtype=np.float64))

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """The scores by name, and the number of videos they are of."""

    @abstractmethod
    def describe(self) -> str:
        """The scores in a line for people."""

    def save(
        self,
        directory: str | os.PathLike,
        names: Sequence[str],
        label_names: Sequence[str],
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Writes summary.json (with `extra`), predictions.csv, and a table and picture of classes.

        `names` are the videos' in the order of the set. summary.json comes last: where it is, the
        other files are complete.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        _write_csv(directory / "predictions.csv", self._prediction_rows(names, label_names))
        self._save_classes(directory, label_names)
        summary = json.dumps({**self.summary(), **(extra or {})}, indent=2)
        with whole_file(directory / "summary.json") as partial:
            partial.write_text(summary + "\n")

    @abstractmethod
    def _save_classes(self, directory: Path, label_names: Sequence[str]) -> None:
        """Writes what there is to say of every class."""

    def _prediction_rows(
        self, names: Sequence[str], label_names: Sequence[str]
    ) -> Iterator[list[Any]]:
        top = min(5, len(label_names))
        columns = [f"{what}_{k}" for k in range(1, top + 1) for what in ("class", "probability")]
        yield ["video", *self._truth_columns, "loss", *columns]
        ranked = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :top]
        for row, name in enumerate(names):
            pairs = ((label_names[k], f"{self.probabilities[row, k]:.6f}") for k in ranked[row])
            loss = f"{self.losses[row]:.6f}"
            truth = self._truth(row, ranked[row, 0], label_names)
            yield [name, *truth, loss, *(cell for pair in pairs for cell in pair)]

    _truth_columns = ()

    @abstractmethod
    def _truth(self, row: int, best: int, label_names: Sequence[str]) -> list[str]:
        """The cells of `_truth_columns` for one video, whose most probable class is `best`."""


@dataclass(frozen=True)
class Evaluation(_Answers):
    """What a model said about every video of a set, in the order of the set.

    labels: int `[N]`; probabilities: float32 `[N, K]`, averaged over views; losses: float32 `[N]`.
    """

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

    def summary(self) -> dict[str, float]:
        """The scores by name, and the number of videos they are of."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_class_accuracy": self.mean_class_accuracy,
            "loss": self.loss,
            "videos": len(self.labels),
        }

    def describe(self) -> str:
        """The scores in a line for people."""
        return (
            f"top-1 {self.top1:.2%}, top-5 {self.top5:.2%}, mean class accuracy "
            f"{self.mean_class_accuracy:.2%}, loss {self.loss:.4f} on {len(self.labels)} videos"
        )

    def _save_classes(self, directory: Path, label_names: Sequence[str]) -> None:
        """Writes confusion.csv and confusion.png."""
        matrix = zip(label_names, self.confusion.tolist(), strict=True)
        rows = ([name, *counts] for name, counts in matrix)
        _write_csv(directory / "confusion.csv", [["true \\ predicted", *label_names], *rows])
        plots.save_confusion(directory / "confusion.png", self.confusion, label_names)

    _truth_columns = ("label", "predicted")

    def _truth(self, row: int, best: int, label_names: Sequence[str]) -> list[str]:
        return [label_names[self.labels[row]], label_names[best]]


@dataclass(frozen=True)
class MultiLabelEvaluation(_Answers):
    """What a model said about every video of a set whose videos have sets of labels.

    labels: float32 `[N, K]`, 1 for each class of a set; probabilities: float32 `[N, K]`, averaged
    over views; losses: float32 `[N]`.
    """

    @cached_property
    def average_precisions(self) -> np.ndarray:
        """Of each class, float64 `[K]`; NaN for one that no video has."""
        return metrics.average_precisions(self.probabilities, self.labels)

    @property
    def mean_average_precision(self) -> float:
        """The average precision of each class that occurs, averaged over those classes."""
        return metrics.mean_over_present(self.average_precisions)

    @property
    def hit1(self) -> float:
        """Of the videos with any label, the share whose most probable class is among theirs."""
        return metrics.hit_at_1(self.probabilities, self.labels)

    def summary(self) -> dict[str, float]:
        """The scores by name, and the number of videos and of occurring classes they are of."""
        return {
            "mAP": self.mean_average_precision,
            "hit1": self.hit1,
            "loss": self.loss,
            "videos": len(self.labels),
            "classes": int(self.labels.any(axis=0).sum()),
        }

    def describe(self) -> str:
        """The scores in a line for people."""
        return (
            f"mAP {self.mean_average_precision:.2%}, hit@1 {self.hit1:.2%}, loss {self.loss:.4f} "
            f"on {len(self.labels)} videos"
        )

    def _save_classes(self, directory: Path, label_names: Sequence[str]) -> None:
        """Writes average_precision.csv and average_precision.png."""
        videos = self.labels.sum(axis=0).astype(int).tolist()
        cells = ["" if np.isnan(value) else f"{value:.6f}" for value in self.average_precisions]
        rows = zip(label_names, cells, videos, strict=True)
        header = ("class", "average_precision", "videos")
        _write_csv(directory / "average_precision.csv", [header, *rows])
        path = directory / "average_precision.png"
        plots.save_average_precisions(path, self.average_precisions, videos, label_names)

    _truth_columns = ("labels",)

    def _truth(self, row: int, best: int, label_names: Sequence[str]) -> list[str]:
        return [";".join(label_names[k] for k in np.flatnonzero(self.labels[row]))]


AnyEvaluation = Evaluation | MultiLabelEvaluation


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with whole_file(path) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
