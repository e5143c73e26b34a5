"""What the figures draw, by the values of their traces."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.report.figures import Bar, bars_figure, losses_figure, range_test_figure
from hpo.training.lr_curve import LRCurve


def test_bars_stand_published_beside_measured_with_their_own_deviations() -> None:
    figure = bars_figure("errors", [Bar("FNN", 6.44, 0.71, 6.26, 0.97), Bar("one round", 3.98, 1.22, 3.21, None)])
    published, measured = figure.data
    assert (published.name, list(published.y), list(published.error_y.array)) == (
        "published",
        [6.44, 3.98],
        [0.71, 1.22],
    )
    assert (measured.name, list(measured.y), list(measured.error_y.array)) == ("measured", [6.26, 3.21], [0.97, None])
    assert list(published.x) == list(measured.x) == ["FNN", "one round"]


def test_losses_are_drawn_for_each_round_and_their_mean() -> None:
    settings = {"none": [[3.0, 1.0], [2.0, 0.5]], "WS": [[4.0, 2.0], [3.0, 1.0]]}  # setting -> epoch -> round
    figure = losses_figure("losses", settings)
    drawn = [(trace.name, trace.xaxis, list(trace.x), list(trace.y)) for trace in figure.data]
    assert drawn == [
        ("each round", "x", [1, 2], [3.0, 2.0]),
        ("each round", "x", [1, 2], [1.0, 0.5]),
        ("mean", "x", [1, 2], [2.0, 1.25]),
        ("each round", "x2", [1, 2], [4.0, 3.0]),
        ("each round", "x2", [1, 2], [2.0, 1.0]),
        ("mean", "x2", [1, 2], [3.0, 2.0]),
    ]


def test_a_range_test_shows_every_round_the_mean_and_the_optimum() -> None:
    rates, losses = np.array([0.01, 0.1, 1.0]), np.array([[3.0, 1.0, 2.0], [3.0, 2.0, 1.0]])
    figure = range_test_figure("test", LRCurve(rates, losses))
    curves = {trace.name: list(trace.y) for trace in figure.data if trace.mode == "lines"}
    assert curves == {"each round": [3.0, 2.0, 1.0], "mean": [3.0, 1.5, 1.5]}
    (line,) = figure.layout.shapes
    assert line.x0 == pytest.approx(0.55)  # the mean of 0.1 and 1.0
