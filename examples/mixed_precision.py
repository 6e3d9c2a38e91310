"""Mixed precision with a GradScaler: on a GPU in float16, on a CPU the same loop in float32."""

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema import ExponentialMovingAverage

on_gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
model = network()
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
scaler = paddle.amp.GradScaler(enable=on_gpu, init_loss_scaling=1024)
ema = ExponentialMovingAverage(model, decay=0.99)  # in float32, whatever the model is in
ema.attach(optimizer)  # a step that the scaler leaves out is none of the average's either

for _ in range(5):
    for points, labels in batches(train_data):
        with paddle.amp.auto_cast(enable=on_gpu, level="O1"):
            loss = paddle.nn.functional.cross_entropy(model(points), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad()
ema.detach()

raw = accuracy(model)
with ema.average_parameters():
    averaged = accuracy(model)
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")
