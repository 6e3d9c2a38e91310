"""The calls that PaddleClas's engine makes of an ExponentialMovingAverage, in its order.

Stands for ppcls/engine/engine.py (`Engine.train`, `Engine.eval`), ppcls/engine/train/train.py
(`train_epoch`) and ppcls/utils/save_load.py (`save_model`, `init_model`), versions of 2024.
"""

from __future__ import annotations

import os

import paddle


class Engine:
    """Train as theirs does: the averaged module is asked for once, and swapped in to evaluate."""

    def __init__(self, model, loader, make_ema, output_dir, epochs, update_freq=1):
        self.model, self.loader, self.output_dir = model, loader, str(output_dir)
        self.epochs, self.update_freq = epochs, update_freq
        self.lr_sch = paddle.optimizer.lr.CosineAnnealingDecay(0.05, T_max=40)
        self.optimizer = [paddle.optimizer.Momentum(self.lr_sch, parameters=model.parameters())]
        self.model_ema = make_ema(model)
        self.accuracies = []

    def train(self, checkpoints=None, after_step=lambda: None):
        ema_module = self.model_ema.module
        best = {"metric": -1.0, "epoch": 0}
        if checkpoints is not None:
            best.update(self.init_model(checkpoints, ema_module))
        for epoch_id in range(best["epoch"] + 1, self.epochs + 1):
            self.train_epoch(after_step)
            accuracy = self.eval()
            self.model.train()
            original, self.model = self.model, ema_module
            accuracy_ema = self.eval()
            self.model = original
            ema_module.eval()
            self.accuracies.append((accuracy, accuracy_ema))
            for prefix in ("best_model_ema", f"epoch_{epoch_id}", "latest"):
                self.save_model(ema_module, {"metric": accuracy_ema, "epoch": epoch_id}, prefix)

    def train_epoch(self, after_step):
        for iter_id, (image, label) in enumerate(self.loader):
            loss = paddle.nn.functional.cross_entropy(self.model(image), label)
            (loss / self.update_freq).backward()
            if (iter_id + 1) % self.update_freq == 0:
                self.optimizer[0].step()
                self.optimizer[0].clear_grad()
                self.lr_sch.step()
                self.model_ema.update(self.model)
                after_step()

    @paddle.no_grad()
    def eval(self):
        self.model.eval()
        hits = [(self.model(x).argmax(-1) == y).astype("float32").mean() for x, y in self.loader]
        self.model.train()
        return float(sum(hits) / len(hits))

    def save_model(self, ema, metric_info, prefix):
        path = os.path.join(self.output_dir, prefix)
        paddle.save(self.model.state_dict(), path + ".pdema")
        paddle.save(ema.state_dict(), path + ".pdparams")
        paddle.save([optimizer.state_dict() for optimizer in self.optimizer], path + ".pdopt")
        paddle.save(metric_info, path + ".pdstates")

    def init_model(self, path, ema):
        optimizer_states = paddle.load(path + ".pdopt")
        metric_info = paddle.load(path + ".pdstates")
        raw = paddle.load(path + ".pdema")
        ema.set_state_dict(paddle.load(path + ".pdparams"))
        metric_info["metric"] = 0.0
        self.model.set_state_dict(raw)
        for optimizer, state in zip(self.optimizer, optimizer_states):
            optimizer.set_state_dict(state)
        return metric_info
