"""Let the optimizer move the average, with a window in percent of the run."""

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema import ExponentialMovingAverage, RunLength

epochs, loader = 5, batches(train_data)
model = network()
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
run = RunLength(len(loader) * epochs, steps_per_epoch=len(loader), images_per_step=32)
ema = ExponentialMovingAverage(model, half_life="15 %", run=run)
ema.attach(optimizer)

for _ in range(epochs):
    for points, labels in loader:
        paddle.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()  # moves the average as well
        optimizer.clear_grad()
ema.detach()

raw = accuracy(model)
with ema.average_parameters():
    averaged = accuracy(model)
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")
