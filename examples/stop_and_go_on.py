"""Train two epochs each time it is called, with the bits of a run that never stopped."""

import os

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema import ExponentialMovingAverage

model = network()
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
ema, done = ExponentialMovingAverage(model, decay=0.99), 0
if os.path.exists("run.pdstates"):
    state = paddle.load("run.pdstates")  # a file of your own; of a stranger, it can run code
    model.set_state_dict(state["model"])
    optimizer.set_state_dict(state["optimizer"])
    ema.set_state_dict(state["ema"])  # the shadow, its count of updates, and all the rest
    done = state["epoch"]

for _ in range(2):
    for points, labels in batches(train_data):
        paddle.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
        ema.update()

raw = accuracy(model)
with ema.average_parameters():
    averaged = accuracy(model)
print(f"epoch {done + 2}: raw {raw:.2f} %  averaged {averaged:.2f} %")

parts = {"model": model, "optimizer": optimizer, "ema": ema}
state = {name: part.state_dict() for name, part in parts.items()}
paddle.save({**state, "epoch": done + 2}, "run.pdstates")
