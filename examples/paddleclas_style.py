"""A loop as PaddleClas's engine has it: the averaged module is evaluated and saved beside it."""

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema.integrations.paddleclas import ExponentialMovingAverage

model = network(normalized=True)
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
model_ema = ExponentialMovingAverage(model, decay=0.99)
best = {"metric": -1.0, "epoch": 0}

for epoch in range(1, 6):
    for points, labels in batches(train_data):
        paddle.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
        model_ema.update(model)
    averaged = accuracy(model_ema.module)
    model_ema.module.eval()
    if averaged > best["metric"]:
        best = {"metric": averaged, "epoch": epoch}
        paddle.save(model_ema.module.state_dict(), "best_model_ema.pdparams")
        paddle.save(model.state_dict(), "best_model_ema.pdema")

raw = accuracy(model)
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")
