"""Export a model for deployment: python tools/export_model.py -c configs/lenet_mnist.yml"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Sequence

from ppema.console import ArgumentParser, Screen, import_paddle, log_to, run_tool, say

DEFAULT_FOLDER = Path("output_inference")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = ArgumentParser(__doc__)
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="DIR",
        help=f"where the files go; default: {DEFAULT_FOLDER}/<config>",
    )
    parser.add_argument(
        "--average", metavar="NAME", help="raw or an average's name; default: the run's winner"
    )
    parser.add_argument(
        "--onnx", action="store_true", help="write model.onnx too (pip install 'ppema[onnx]')"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older export")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Export the weights that the arguments choose; return the exit code."""
    arguments = parse_arguments(argv)
    log_to(Screen())
    # Read by Paddle when it is imported; tracing BatchNorm warns of what does not concern anyone.
    os.environ.setdefault("GLOG_minloglevel", "2")
    # Once the arguments are right: it takes a second.
    import_paddle()
    from ppema import builder
    from ppema.export import export_model, require_converter, require_free

    config = builder.read_config(arguments.config, arguments.opt)
    folder = arguments.output_dir or DEFAULT_FOLDER / config.name
    # Before anything that takes time.
    require_free(folder, arguments.overwrite)
    if arguments.onnx:
        require_converter()
    place = builder.select_place(config)
    served = builder.load_served(config, arguments.average)
    say(f"weights: {served.weights.described}; place: {place}")
    images, images_are, origin = builder.check_images(config, served)
    checks = export_model(
        served.model,
        served.preprocess,
        served.class_names,
        served.source(config),
        images,
        images_are,
        folder,
        overwrite=arguments.overwrite,
        onnx=arguments.onnx,
    )
    print(f"checked on {len(images)} images: {images_are} ({origin})")
    for file, check in checks.items():
        print(
            f"{file}: largest difference from the trained model {check.largest_difference:.2g}, "
            f"largest logit {check.largest_logit:.3g}"
        )
    print(f"written: {folder} ({', '.join(sorted(path.name for path in folder.iterdir()))})")
    return 0


if __name__ == "__main__":
    run_tool(main)
