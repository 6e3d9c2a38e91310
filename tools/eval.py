"""Evaluate raw and averaged weights: python tools/eval.py -c configs/lenet_mnist.yml"""

from __future__ import annotations

import argparse
from typing import Any, Sequence

from ppema.console import ArgumentParser, Screen, import_paddle, log_to, run_tool, say


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--average",
        default="all",
        metavar="NAME",
        help="raw, the name of an average, or all (the default)",
    )
    parser.add_argument(
        "--plots",
        nargs="?",
        const="",
        metavar="DIR",
        help="draw the confusion matrix, how right the model is where it is sure, and the surest "
        "mistakes; plots beside the weights if no folder is named",
    )
    parser.add_argument(
        "--on",
        default="test",
        choices=("test", "validation"),
        metavar="PART",
        help="test, the images of EvalDataset (the default), or validation, those that the config "
        "keeps out of training",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Evaluate what the arguments say, print a table, return the exit code."""
    arguments = parse_arguments(argv)
    log_to(Screen())
    # Once the arguments are right: it takes a second.
    import_paddle()
    from ppema import builder

    config = builder.read_config(arguments.config, arguments.opt)
    place = builder.select_place(config)
    with builder.joined(place):
        evaluate_weights(config, arguments, place)
    return 0


def evaluate_weights(config: Any, arguments: argparse.Namespace, place: str) -> None:
    """Evaluate what the arguments say; of several processes, each does a share of the batches."""
    from ppema import builder
    from ppema.averaging import ranks
    from ppema.engine.evaluate import evaluate, table
    from ppema.engine.predictions import Predictions
    from ppema.engine.weights import find_weights
    from ppema.fast_cpu import FastLayers

    weights = find_weights(config.weights, builder.run_folder(config), arguments.average)
    folder = None if arguments.plots is None else builder.plots_folder(arguments.plots, weights)
    load = builder.load_eval_data if arguments.on == "test" else builder.load_validation_data
    dataset = builder.load_in_turn(lambda: load(config, weights.manifest))
    model, loss_fn = builder.make_model(config), builder.make_loss(config)
    reader = builder.make_eval_reader(config, dataset)
    fast_layers = FastLayers(model, config.fast_cpu)
    say(f"weights: {weights.described}")
    say(f"data: {dataset.source}; place: {place}{builder.note_on(dataset)}")
    evaluations = {}
    predictions = {name: Predictions(builder.NUM_MISTAKES) for name in weights.names if folder}
    for name in weights.names:
        weights.load(name, model)
        with fast_layers.in_use():
            evaluations[name] = evaluate(model, loss_fn, reader, predictions.get(name), name)
    if not ranks.is_first():
        return
    print(table(evaluations, weights.winner, config.select))
    if folder is not None:
        name = builder.chosen(evaluations, weights.winner)
        title = f"{config.name}, {weights.title(name)}, top-1 {100 * evaluations[name].top1:.2f} %"
        files = builder.plot_evaluation(name, title, predictions[name], dataset, folder)
        print(f"{name} drawn: {', '.join(map(str, files))}")


if __name__ == "__main__":
    run_tool(main, shares_work=True)
