"""Average in a loop of your own: python examples/plain_loop.py"""

import paddle
from synthetic import accuracy, batches, network, train_data

from ppema import ExponentialMovingAverage

model = network()
optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
ema = ExponentialMovingAverage(model, decay=0.99)  # starts from the model's weights

for _ in range(5):
    for points, labels in batches(train_data):
        paddle.nn.functional.cross_entropy(model(points), labels).backward()
        optimizer.step()
        optimizer.clear_grad()
        ema.update()  # after each step

raw = accuracy(model)
with ema.average_parameters():  # the average is in the model in here
    averaged = accuracy(model)
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")

paddle.save(ema.averaged_state_dict(), "ema.pdparams")  # to serve: fits model.set_state_dict
paddle.save(ema.state_dict(), "ema.pdstates")  # to go on from
