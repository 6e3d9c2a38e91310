"""A run of ppema put together as tools/train.py does."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Sequence

from ppema import builder
from ppema.checkpoint import CheckpointStore
from ppema.engine.trainer import Trainer
from ppema.stop_signals import StopSignals

from .data import Archives

CONFIG = Path(__file__).resolve().parents[2] / "configs/lenet_mnist.yml"


def overrides(archives: Archives, save_dir: str) -> list[str]:
    """Return the `-o` of a run on these archives."""
    folder = archives.folder
    datasets = [f"{name}.dataset_dir={folder}" for name in ("TrainDataset", "EvalDataset")]
    return [*datasets, f"save_dir={save_dir}"]


def make_trainer(
    archives: Archives,
    save_dir: str,
    more: Sequence[str] = (),
    signals: Optional[StopSignals] = None,
) -> Trainer:
    """Return the trainer of configs/lenet_mnist.yml with the hooks that train.py gives it.

    Args:
        archives: what it trains on.
        save_dir: where its run's folder is to be.
        more: further `-o`.
        signals: those that end it; None for none.
    """
    config = builder.read_config(str(CONFIG), [*overrides(archives, save_dir), *more])
    builder.select_place(config)
    data = builder.load_data(config, None)
    trainer = builder.make_trainer(config, data)
    store = CheckpointStore(builder.run_folder(config), config.keep_checkpoint_max)
    store.folder.mkdir(parents=True, exist_ok=True)
    steps = trainer.steps_per_epoch
    signals = signals or StopSignals()
    trainer.hooks = builder.make_hooks(config, data, store, steps, None, False, signals)
    return trainer
