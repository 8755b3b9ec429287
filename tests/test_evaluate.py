"""Features and probes: what they measure on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salt_toolkit.contracts import Sample
from salt_toolkit.errors import BadClip, DataError
from salt_toolkit.evaluate.features import LabelledFeatures, labelled_features, raw_pixels
from salt_toolkit.evaluate.probes import probe


class Shades:
    """A clip i of one shade; odd ones are class 1; the ``bad`` ones cannot be read."""

    class_names = ("even", "odd")

    def __init__(self, num_clips, bad=(), labelled=True):
        self.clip_ids = [str(number) for number in range(num_clips)]
        self.bad = bad
        self.labelled = labelled

    def read(self, index, view):
        if index in self.bad:
            raise BadClip(str(index), "is bad")
        clip = torch.full((2, 4, 4, 3), index, dtype=torch.uint8)
        return Sample(str(index), {"clip": clip}, label=index % 2 if self.labelled else None)


def test_features_keep_the_order_and_leave_out_bad_clips():
    found = labelled_features(Shades(10, bad={3}), {"raw": raw_pixels}, batch_size=4)["raw"]
    assert found.features.shape == (9, 2 * 4 * 4 * 3)
    np.testing.assert_allclose(found.features[:, 0] * 255, [0, 1, 2, 4, 5, 6, 7, 8, 9], rtol=1e-6)
    assert found.labels.tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 1]


def test_a_set_without_labels_or_without_clips_is_an_error():
    with pytest.raises(DataError, match="have no label"):
        labelled_features(Shades(4, labelled=False), {"raw": raw_pixels})
    with pytest.raises(DataError, match="no clip of the dataset is readable"):
        labelled_features(Shades(2, bad={0, 1}), {"raw": raw_pixels})


def clouds(generator, distance, num_clips=300, num_classes=3):
    labels = generator.integers(num_classes, size=num_clips)
    centres = distance * np.eye(num_classes, 8)
    features = centres[labels] + generator.normal(size=(num_clips, 8))
    return LabelledFeatures(features.astype(np.float32), labels.astype(np.int64))


def test_probes_tell_separate_classes_from_noise():
    generator = np.random.default_rng(0)
    apart = probe(clouds(generator, 12.0), clouds(generator, 12.0))
    mixed = probe(clouds(generator, 0.0), clouds(generator, 0.0))
    assert apart.knn == apart.linear == 1.0
    assert abs(mixed.knn - 1 / 3) < 0.12
    assert abs(mixed.linear - 1 / 3) < 0.12


def test_the_linear_probe_says_which_labels_it_found():
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 60)
    # Labels 1 and 2 lie in one place; label 0 lies apart.
    features = 12.0 * np.eye(3, 8)[np.minimum(labels, 1)] + generator.normal(size=(180, 8))
    clips = LabelledFeatures(features.astype(np.float32), labels.astype(np.int64))
    result = probe(clips, clips)
    assert result.linear_by_label[0] == 1.0
    assert result.linear_by_label[1] + result.linear_by_label[2] < 1.6
    assert result.linear == pytest.approx(np.mean(list(result.linear_by_label.values())))


def test_probes_do_not_depend_on_the_scale_of_single_numbers():
    generator = np.random.default_rng(1)
    train, held_out = clouds(generator, 2.0), clouds(generator, 2.0)
    scale = np.logspace(-3, 3, 8).astype(np.float32)
    scaled = [LabelledFeatures(each.features * scale, each.labels) for each in (train, held_out)]
    plain, other = probe(train, held_out), probe(*scaled)
    assert other.knn == pytest.approx(plain.knn, abs=0.02)
    assert other.linear == pytest.approx(plain.linear, abs=0.02)
