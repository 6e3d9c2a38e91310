"""Average in paddle.Model.fit; what fit evaluates and saves as `final_average` is the average."""

import paddle
from synthetic import accuracy, eval_data, network, train_data

from ppema import ExponentialMovingAverage
from ppema.hapi import WeightAverageCallback

layers = network()
model = paddle.Model(layers)
optimizer = paddle.optimizer.Adam(0.01, parameters=layers.parameters())
model.prepare(optimizer, paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy())
callback = WeightAverageCallback(ExponentialMovingAverage(layers, decay=0.99), save_dir="output")
model.fit(train_data, batch_size=32, epochs=5, verbose=0, callbacks=[callback])

raw = accuracy(layers)
figures = model.evaluate(eval_data, batch_size=500, verbose=0, callbacks=[callback])
averaged = 100.0 * figures["acc"]
print(f"raw {raw:.2f} %  averaged {averaged:.2f} %")
