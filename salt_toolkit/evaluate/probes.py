"""Probes of frozen features: k-nearest-neighbour and linear classification."""

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
    """Accuracies on held-out clips, 0 to 1."""

    knn: float
    linear: float
    linear_by_label: dict[int, float]


def probe(train: LabelledFeatures, held_out: LabelledFeatures) -> ProbeResult:
    """Fits both probes on training clips and scores them on held-out clips.

    Features are standardised by the training clips' mean and standard deviation; the k-NN probe uses the 10 nearest
    neighbours by cosine distance; the linear probe is scikit-learn's logistic regression with default settings. All
    encoders are scored by the same two probes.

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
