"""The calibration of the score, against scikit-learn and by its properties."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from quantize.errors import CalibrationDataError
from quantize.platt import fit_platt


def overlapping(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return np.where(labels == 1, 0.3, -0.2) + rng.normal(0, 0.3, n), labels


def test_the_fit_agrees_with_logistic_regression_on_balanced_classes() -> None:
    cosines, labels = overlapping()
    # Platt's targets are soft; logistic regression gets them as two weighted copies of each sample.
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    weight = np.where(labels == 1, 0.5 / positives, 0.5 / negatives)
    oracle = LogisticRegression(C=1e9, tol=1e-12, max_iter=1000).fit(
        np.concatenate([cosines, cosines])[:, None],
        np.repeat([1, 0], len(cosines)),
        sample_weight=np.concatenate([weight * target, weight * (1 - target)]) * 1e4,
    )
    found = fit_platt(cosines, labels)
    assert found.scale == pytest.approx(oracle.coef_[0, 0], rel=1e-3)
    assert found.bias == pytest.approx(oracle.intercept_[0], rel=1e-3, abs=1e-3)


def test_repeating_the_attacks_does_not_move_the_score_much() -> None:
    cosines, labels = overlapping()
    attacks = labels == 0
    more = fit_platt(
        np.concatenate([cosines, np.tile(cosines[attacks], 9)]),
        np.concatenate([labels, np.zeros(9 * attacks.sum(), int)]),
    )
    once = fit_platt(cosines, labels)
    at = np.linspace(-1, 1, 21)
    scores = [1 / (1 + np.exp(-(p.scale * at + p.bias))) for p in (once, more)]
    assert np.abs(scores[0] - scores[1]).max() < 0.01


def test_perfectly_separated_classes_give_a_finite_slope() -> None:
    found = fit_platt(np.array([-0.9, -0.8, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert 0 < found.scale < 100


@pytest.mark.parametrize(
    ("cosines", "labels"),
    [
        ([0.1, 0.2], [1, 1]),
        ([0.1, np.nan], [0, 1]),
        ([0.9, 0.8, -0.8, -0.9], [0, 0, 1, 1]),
    ],
    ids=["one class", "not finite", "upside down"],
)
def test_unusable_data_is_refused(cosines: list[float], labels: list[int]) -> None:
    with pytest.raises(CalibrationDataError):
        fit_platt(np.array(cosines), np.array(labels))
