"""SWA: a constant rate at the end, the mean of what it gives, BatchNorm's statistics anew."""

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema import SWALR, AveragedModel, update_bn

epochs, start, loader = 6, 3, batches(train_data)
model = network(normalized=True)
schedule = paddle.optimizer.lr.CosineAnnealingDecay(0.02, T_max=epochs)
schedule = SWALR(schedule, swa_lr=0.01, start=start, anneal=1)
optimizer = paddle.optimizer.Adam(schedule, parameters=model.parameters())
averaged_model = AveragedModel(model)

for epoch in range(epochs):
    for step, (points, labels) in enumerate(loader):
        paddle.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
        if epoch >= start and (step + 1) % 10 == 0:
            averaged_model.update_parameters(model)
    schedule.step()  # once an epoch; it steps the schedule before, too
update_bn(loader, averaged_model)  # one pass: the mean of weights has other statistics

raw = accuracy(model)
averaged = accuracy(averaged_model)
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")
