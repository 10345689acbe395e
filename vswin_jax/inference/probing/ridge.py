"""A linear classifier by ridge regression on 0/1 targets, in closed form.

One eigendecomposition of the features' covariance gives the solution for every strength of the
regularisation, so that all of Kinetics takes seconds, where logistic regression takes hours.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from vswin_jax.inference.probing.probe_data import ProbeData

# Relative to the variance of a standardised feature.
STRENGTHS = tuple(10.0**power for power in range(-6, 3))


def ridge_scores(
    train: ProbeData,
    vectors: Float32[np.ndarray, "N C"],
    strengths: Sequence[float] = STRENGTHS,
) -> Mapping[float, Float32[np.ndarray, "N K"]]:
    """Return the class scores of each vector by the ridge regression of each strength.

    The features are standardised. The strength is the penalty on the squared weights, where the
    loss is the mean squared error.
    """
    mean, std = train.vectors.mean(axis=0), train.vectors.std(axis=0)
    scale = 1 / np.where(std > 0, std, 1.0)
    inputs, queries = (train.vectors - mean) * scale, (vectors - mean) * scale
    prior = train.targets.mean(axis=0)
    covariance = (inputs.T @ inputs).astype(np.float64) / len(inputs)
    correlation = (inputs.T @ (train.targets - prior)).astype(np.float64) / len(inputs)
    values, basis = np.linalg.eigh(covariance)
    values, rotated = np.maximum(values, 0.0)[:, None], basis.T @ correlation
    return {
        strength: queries @ (basis @ (rotated / (values + strength))).astype(np.float32) + prior
        for strength in strengths
    }
