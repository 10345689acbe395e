"""k-NN and linear probe of features, each with the setting that is best on held-out videos."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vswin_jax.errors import InputError
from vswin_jax.inference.probing.nearest_neighbours import neighbour_scores
from vswin_jax.inference.probing.probe_data import ProbeData
from vswin_jax.inference.probing.ridge import ridge_scores

# (training videos, vectors) -> the class scores of the vectors, for each setting.
Classifier = Callable[[ProbeData, np.ndarray], Mapping[float, np.ndarray]]


@dataclass(frozen=True)
class ProbeResult:
    """The scores on the test videos: accuracy from 0 to 1, or mAP of multi-label videos.

    Attributes:
      knn: the score of the k nearest neighbours.
      k: their number.
      linear: the score of the linear classifier.
      strength: the strength of its regularisation.
    """

    knn: float
    k: int
    linear: float
    strength: float


def probe(train: ProbeData, test: ProbeData) -> ProbeResult:
    """Fit a k-NN and a linear classifier to the training features and score the test features.

    A fifth of the training videos, at most 10,000, chooses the number of neighbours and the
    regularisation; then all training videos are used.

    Raises:
      InputError: there are too few videos, or values that are no numbers.
    """
    for data in (train, test):
        if not np.isfinite(data.vectors).all():
            raise InputError(
                "Expected features of finite numbers but some are infinite or NaN: check the "
                "checkpoint, or write them as float32."
            )
    k, knn = _best(neighbour_scores, train, test)
    strength, linear = _best(ridge_scores, train, test)
    return ProbeResult(knn=knn, k=int(k), linear=linear, strength=strength)


def _best(classifier: Classifier, train: ProbeData, test: ProbeData) -> tuple[float, float]:
    """Return the setting that is best on held-out training videos, and its score on the test."""
    fitted, held_out = train.split()
    by_setting = classifier(fitted, held_out.vectors)

    def rank(setting: float) -> tuple[float, float]:
        # Equal accuracies are common in small sets: the smaller squared error decides.
        scores = by_setting[setting]
        return held_out.score(scores), -float(np.square(scores - held_out.targets).mean())

    setting = max(by_setting, key=rank)
    return setting, test.score(classifier(train, test.vectors)[setting])
