"""Probes of frozen features: what a nearest neighbour and a linear classifier can read from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from salt_toolkit.errors import DataError
from salt_toolkit.evaluate.features import LabelledFeatures

NEIGHBOURS = 10


@dataclass(frozen=True)
class ProbeResult:
    """Shares of held-out clips whose label was found, 0 to 1."""

    knn: float
    linear: float
    linear_by_label: dict[int, float]


def probe(train: LabelledFeatures, held_out: LabelledFeatures) -> ProbeResult:
    """Fits both probes on some clips and judges them on others.

    Features are standardised by the fitting clips' mean and spread; the neighbours are the 10
    nearest by cosine; the linear probe is scikit-learn's logistic regression as it comes. Every
    encoder is judged by the same two probes.

    Raises:
        DataError: The labels are numbers to regress.
    """
    if train.labels.dtype != np.int64:
        raise DataError("the labels are numbers to regress, and the probes tell classes apart")
    knn = make_pipeline(StandardScaler(), KNeighborsClassifier(NEIGHBOURS, metric="cosine"))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for classifier in (knn, linear):
        classifier.fit(train.features, train.labels)
    found = linear.predict(held_out.features) == held_out.labels
    return ProbeResult(
        knn=float(knn.score(held_out.features, held_out.labels)),
        linear=float(found.mean()),
        linear_by_label={int(label): float(found[held_out.labels == label].mean()) for label in set(held_out.labels)},
    )
