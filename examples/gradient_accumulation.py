"""Accumulate the gradients of four batches: one step of the optimizer, one update."""

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema import ExponentialMovingAverage

accumulate_steps = 4
model = network()
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
# A window in updates, that is in steps of the optimizer; not in batches.
ema = ExponentialMovingAverage(model, half_life=60)

for _ in range(8):
    for number, (points, labels) in enumerate(batches(train_data, size=8), start=1):
        loss = paddle.nn.functional.cross_entropy(model(points), labels)
        (loss / accumulate_steps).backward()
        if number % accumulate_steps == 0:
            optimizer.step()
            optimizer.clear_grad()
            ema.update()

raw = accuracy(model)
with ema.average_parameters():
    averaged = accuracy(model)
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")
