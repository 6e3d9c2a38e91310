"""A small task for the examples: points of ten classes, a third of the training labels wrong.

At a constant learning rate wrong labels keep the weights moving; their average lies in the middle.
"""

import numpy as np
import paddle

paddle.seed(0)
_random = np.random.RandomState(0)
_CENTRES = _random.randn(10, 32)


class Points(paddle.io.Dataset):
    """Points around their class's centre, each [32] float32, with their labels [1] int64."""

    def __init__(self, number, share_wrong):
        labels = _random.randint(0, 10, number)
        points = _CENTRES[labels] + 1.2 * _random.randn(number, 32)
        is_wrong = _random.rand(number) < share_wrong
        labels[is_wrong] = _random.randint(0, 10, is_wrong.sum())
        self.points, self.labels = points.astype("float32"), labels[:, None].astype("int64")

    def __getitem__(self, index):
        return self.points[index], self.labels[index]

    def __len__(self):
        return len(self.labels)


def batches(dataset, size=32):
    """Return a dataset in batches, the same ones each time."""
    cuts = range(0, len(dataset), size)
    return [
        [paddle.to_tensor(a[i : i + size]) for a in (dataset.points, dataset.labels)] for i in cuts
    ]


train_data, eval_data = Points(3200, share_wrong=0.35), Points(2000, share_wrong=0.0)


def network(normalized=False):
    """Return a small network, with BatchNorm where asked for."""
    norm = [paddle.nn.BatchNorm1D(64)] if normalized else []
    layers = [paddle.nn.Linear(32, 64), *norm, paddle.nn.ReLU(), paddle.nn.Linear(64, 10)]
    return paddle.nn.Sequential(*layers)


@paddle.no_grad()
def accuracy(model):
    """Return the accuracy on the evaluation data, in percent."""
    model.eval()
    found = model(paddle.to_tensor(eval_data.points)).argmax(-1, keepdim=True)
    model.train()
    return 100.0 * float((found.numpy() == eval_data.labels).mean())
