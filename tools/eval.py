"""Evaluate raw and averaged weights: python tools/eval.py -c configs/lenet_mnist.yml"""

from __future__ import annotations

from typing import Sequence

from ppema.console import ArgumentParser, Screen, import_paddle, log_to, run_tool


def main(argv: Sequence[str]) -> int:
    """Evaluate what the arguments say, print a table, return the exit code."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--average",
        default="all",
        metavar="NAME",
        help="raw, the name of an average, or all (the default)",
    )
    arguments = parser.parse_args(argv)
    log_to(Screen())
    # Once the arguments are right: it takes a second.
    import_paddle()
    from ppema import builder
    from ppema.engine.evaluate import evaluate, table
    from ppema.engine.weights import find_weights
    from ppema.fast_cpu import FastLayers

    config = builder.read_config(arguments.config, arguments.opt)
    place = builder.select_place(config)
    weights = find_weights(config.weights, builder.run_folder(config), arguments.average)
    dataset = builder.load_eval_data(config, weights.manifest)
    model, loss_fn = builder.make_model(config), builder.make_loss(config)
    reader = builder.make_eval_reader(config, dataset)
    fast_layers = FastLayers(model, config.fast_cpu)
    print(f"weights: {weights.described}")
    print(f"data: {dataset.source}; place: {place}{builder.note_on(dataset)}")
    evaluations = {}
    for name in weights.names:
        weights.load(name, model)
        with fast_layers.in_use():
            evaluations[name] = evaluate(model, loss_fn, reader)
    print(table(evaluations, weights.winner, config.select))
    return 0


if __name__ == "__main__":
    run_tool(main)
