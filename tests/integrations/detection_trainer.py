"""The calls that PaddleDetection's trainer makes of a ModelEMA, in its order.

Stands for ppdet/engine/trainer.py (`Trainer.train`), ppdet/engine/callbacks.py (`Checkpointer`) and
ppdet/utils/checkpoint.py (`save_model`, `load_weight`), versions of 2024.
"""

from __future__ import annotations

import copy
import os

import paddle


class Trainer:
    """Train as theirs does: update each step, put the average in for a snapshot, take it out."""

    def __init__(self, model, loader, make_ema, save_dir, epoch, snapshot_epoch=1):
        self.model, self.loader, self.save_dir = model, loader, str(save_dir)
        self.epoch, self.snapshot_epoch, self.start_epoch = epoch, snapshot_epoch, 0
        self.lr = paddle.optimizer.lr.CosineAnnealingDecay(0.05, T_max=40)
        self.optimizer = paddle.optimizer.Momentum(self.lr, parameters=model.parameters())
        self.ema = make_ema(model)
        self.seen_in_evaluation = []

    def load_weights(self, path):
        self.model.set_dict(paddle.load(path + ".pdparams"))

    def resume_weights(self, path, exchange=True):
        self.start_epoch = load_weight(self.model, path, self.optimizer, self.ema, exchange)

    def train(self, after_step=lambda: None):
        for epoch_id in range(self.start_epoch, self.epoch):
            self.model.train()
            for image, label in self.loader:
                loss = paddle.nn.functional.cross_entropy(self.model(image), label)
                loss.backward()
                self.optimizer.step()
                self.lr.step()
                self.optimizer.clear_grad()
                self.ema.update()
                after_step()
            is_last = epoch_id == self.epoch - 1
            if (epoch_id + 1) % self.snapshot_epoch and not is_last:
                continue
            weight = copy.deepcopy(self.model.state_dict())
            self.model.set_dict(self.ema.apply())
            self.save(weight, "model_final" if is_last else str(epoch_id), epoch_id + 1)
            self.model.eval()
            with paddle.no_grad():
                self.seen_in_evaluation.append(self.model(self.loader[0][0]).numpy())
            self.save(weight, "best_model", epoch_id + 1)
            self.model.set_dict(weight)

    def save(self, weight, save_name, last_epoch):
        path = os.path.join(self.save_dir, save_name)
        paddle.save(self.model.state_dict(), path + ".pdparams")
        paddle.save(weight, path + ".pdema")
        state = self.optimizer.state_dict()
        state["last_epoch"] = last_epoch
        paddle.save(state, path + ".pdopt")


def load_weight(model, path, optimizer, ema, exchange=True):
    """Load as theirs does; without `exchange`, `.pdema` holds the average, not the raw weights."""
    averaged, raw = (".pdparams", ".pdema") if exchange else (".pdema", ".pdparams")
    ema_state = paddle.load(path + averaged)
    model.set_dict(paddle.load(path + raw))
    state = paddle.load(path + ".pdopt")
    last_epoch = state.pop("last_epoch")
    optimizer.set_state_dict(state)
    ema.resume(ema_state, state["LR_Scheduler"]["last_epoch"])
    return last_epoch
