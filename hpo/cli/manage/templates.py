"""First files of a study, as `hpo init` writes them: NAME stands for its name."""

from __future__ import annotations

HEAD = """#:schema hpo.schema.json
# A study of hpo. `hpo check NAME` says whether it can be measured.

title = "NAME"

"""
SEARCH = """
[protocol]
# Each trial is a mean over so many rounds; round r is the same in every trial.
rounds = 10

[sampler]
name = "tpe" # random, gp, cmaes, qmc, grid

[pruner]
name = "PRUNER"

"""

FUNCTION = {
    "NAME.toml": HEAD
    + """[task]
# A function (params, seed) -> number, of the file beside this one.
name = "NAME.py:objective"
metric = "error"
direction = "minimize" # or "maximize"
"""
    + SEARCH.replace("PRUNER", "none")
    + """# What is searched: the function is given one value of each.
[space]
degree = { low = 1, high = 9 }
penalty = { low = 1e-3, high = 10.0, log = true }
""",
    "NAME.py": '''"""What the study NAME measures: replace it by your own."""

import numpy as np


def objective(params, seed):
    """Fits a polynomial to 30 noisy points; returns its squared error on others.

    Whatever is random is drawn from the seed. It is the round's own, and the
    same in every trial.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(-1, 1, 130)
    y = np.sin(3 * x) + random.normal(0, 0.3, 130)
    powers = np.vander(x, params["degree"] + 1)
    train, test = slice(0, 30), slice(30, None)
    square = powers[train].T @ powers[train]
    penalty = params["penalty"] * np.eye(len(square))
    weights = np.linalg.solve(square + penalty, powers[train].T @ y[train])
    return float(np.mean((powers[test] @ weights - y[test]) ** 2))
''',
}

TRAINING = """
[training]
epochs = 10
batch_size = 50
evaluate_at = [2, 5] # epochs after which the pruner may end a trial
"""

CLASSIFICATION = {
    "NAME.toml": HEAD
    + """[task]
name = "classification" # or "regression"
# A class, or a function that builds networks, of the file beside this one.
network = "NAME.py:Net"
# Or a file beside this one: data.npz with x and y, or table.csv and its target = "column".
data = "sklearn:load_digits"
train_examples = 1000
test_examples = 500
"""
    + TRAINING
    + SEARCH.replace("PRUNER", "power_law")
    + """# What is searched: keywords of the network, and of its training.
[space]
hidden = { low = 8, high = 128, log = true }
dropout = { low = 0.0, high = 0.5 }
optimizer = ["sgd", "adam"]
learning_rate = { low = 1e-3, high = 1e-1, log = true }
""",
    "NAME.py": '''"""The network of the study NAME: replace it by your own."""

from math import prod

from torch import nn


class Net(nn.Module):
    """A hidden layer.

    It is told the shape of an example and the number of classes; the other
    keywords are searched.
    """

    def __init__(self, input_shape, outputs, hidden, dropout=0.0):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(prod(input_shape), hidden), nn.ReLU()),
            *(nn.Dropout(dropout), nn.Linear(hidden, outputs)),
        )

    def forward(self, x):
        return self.layers(x)
''',
}

NETWORK = {
    "NAME.toml": HEAD
    + """[task]
# A class with network, loss, data and errors, of the file beside this one.
name = "NAME.py:Task"
noise = 0.1 # a keyword of the class
"""
    + TRAINING
    + SEARCH.replace("PRUNER", "power_law")
    + """# What is searched: keywords of the network and the loss, and of the training.
[space]
hidden = { low = 8, high = 128, log = true }
delta = [0.1, 1.0]
optimizer = ["sgd", "adam"]
learning_rate = { low = 1e-3, high = 1e-1, log = true }
""",
    "NAME.py": '''"""What the study NAME trains and measures: replace it by your own."""

import torch
from torch import nn
from torch.nn import functional

from hpo.study.task import Metric
from hpo.training.network_task import Split


class Task:
    """A network that learns a noisy curve."""

    metrics = [Metric("distance", unit="", high=None, worst=1e9)]

    def __init__(self, noise):
        self.noise = noise

    def network(self, hidden):
        """Builds a network of parameters."""
        return nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def loss(self, output, batch, delta):
        """Returns the mean loss of a batch, of parameters if need be."""
        return functional.huber_loss(output, batch[1], delta=delta)

    def data(self, round_):
        """Draws the examples of a round, from its seed alone."""
        random = torch.Generator().manual_seed(round_.seed("examples"))
        x = 6 * torch.rand(1000, 1, generator=random) - 3
        y = torch.sin(2 * x) + self.noise * torch.randn(1000, 1, generator=random)
        return Split(train=(x[:500], y[:500]), test=(x[500:], y[500:]))

    def errors(self, output, batch):
        """Returns each test example's error."""
        return {"distance": (output - batch[1]).abs()[:, 0]}
''',
}

TEMPLATES = {"function": FUNCTION, "classification": CLASSIFICATION, "network": NETWORK}
