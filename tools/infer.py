"""Name the classes of pictures: python tools/infer.py -c configs/imagefolder.yml --infer_dir DIR"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Optional, Sequence

from ppema.console import ArgumentParser, Screen, import_paddle, log_to, run_tool, say
from ppema.errors import ConfigError, DataError

PREDICTIONS, PICTURES, SHEET = "predictions.json", "pictures", "overview.png"
# Of predictions.json.
FORMAT = 1


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments, checked."""
    parser = ArgumentParser(__doc__)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--infer_img", nargs="+", metavar="FILE", help="pictures")
    wanted.add_argument("--infer_dir", metavar="DIR", help="all pictures below a folder")
    wanted.add_argument("--infer_list", metavar="FILE", help="a text that names one a line")
    parser.add_argument(
        "--output_dir", type=Path, metavar="DIR", help="default: infer in the run's folder"
    )
    parser.add_argument(
        "--average", metavar="NAME", help="raw or an average's name; default: the run's winner"
    )
    parser.add_argument(
        "--top_k", type=int, default=5, metavar="K", help="classes in predictions.json (default 5)"
    )
    arguments = parser.parse_args(argv)
    if arguments.top_k < 1:
        raise ConfigError(f"--top_k must be 1 or more, got {arguments.top_k}")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Say, write and draw what the pictures are taken for; return the exit code."""
    arguments = parse_arguments(argv)
    log_to(Screen())
    # Once the arguments are right: it takes a second.
    import_paddle()
    from ppema import builder

    config = builder.read_config(arguments.config, arguments.opt)
    output_dir = arguments.output_dir or builder.run_folder(config) / "infer"
    require_usable(output_dir, arguments.infer_dir)
    pictures = find_pictures(arguments)
    place = builder.select_place(config)
    served = builder.load_served(config, arguments.average)
    say(f"weights: {served.weights.described}; place: {place}")
    gallery = Gallery(output_dir, num_pictures=len(pictures))
    outcomes = look_at(config, served, pictures, arguments.top_k, gallery)
    gallery.draw_sheet()
    write_predictions(outcomes, gallery.drawn, served, served.source(config), output_dir)
    done = [outcome for outcome in outcomes if outcome.fault is None]
    if done:
        print(table(done))
    num_failed = len(outcomes) - len(done)
    say(f"{len(done)} pictures; {PREDICTIONS}, {PICTURES}/ and {SHEET} are in {output_dir}")
    if num_failed:
        raise DataError(
            f"{num_failed} of {len(outcomes)} files could not be used; they are named above"
        )
    return 0


def find_pictures(arguments: argparse.Namespace) -> Sequence[Any]:
    """Return the pictures that the arguments name; tell of what else lies in a folder."""
    from ppema.data.picture_lists import pictures_of_files, pictures_of_folder, pictures_of_list

    if arguments.infer_img:
        return pictures_of_files(arguments.infer_img)
    if arguments.infer_list is not None:
        return pictures_of_list(arguments.infer_list)
    pictures, others = pictures_of_folder(arguments.infer_dir)
    for path in others:
        print(f"{path}: is left out; its ending is not a picture's", file=sys.stderr)
    return pictures


def require_usable(output_dir: Path, infer_dir: Optional[str]) -> None:
    """Refuse to mix what is written with files of other kinds.

    Raises:
        ConfigError: the folder holds other files, or lies where pictures are looked for.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output_dir {output_dir}: is no folder")
    inner = output_dir.resolve()
    if infer_dir is not None and Path(infer_dir).expanduser().resolve() in (inner, *inner.parents):
        raise ConfigError(
            f"--output_dir {output_dir} lies in --infer_dir {infer_dir}, and what is drawn would "
            "be taken for yours the next time; name another"
        )
    is_own = (output_dir / PREDICTIONS).is_file()
    if output_dir.is_dir() and any(output_dir.iterdir()) and not is_own:
        raise ConfigError(
            f"--output_dir {output_dir} holds other files; name a new folder, such as "
            f"{output_dir / 'infer'}"
        )


class Gallery:
    """Draw pictures with their classes into a folder, and a sheet of some of them.

    `drawn` has the file of each picture, within the folder.
    """

    def __init__(self, folder: Path, num_pictures: int) -> None:
        from ppema.annotate import SHEET_SIZE

        self.drawn: dict[Any, str] = {}
        self._folder = folder
        self._targets: set[str] = set()
        self._on_sheet: list[Any] = []
        # Evenly over all, so that the sheet shows more than the first class.
        step = max(num_pictures / SHEET_SIZE, 1.0)
        self._chosen = {int(number * step) for number in range(min(SHEET_SIZE, num_pictures))}
        self._num_seen = 0

    def add(self, outcome: Any) -> None:
        """Draw one picture, where there are guesses."""
        from ppema.annotate import Annotated, annotate, open_picture, save_picture
        from ppema.data.preprocess import ARRAY_SUFFIX, read_array

        self._num_seen += 1
        if outcome.fault is not None:
            return
        path, name = outcome.item.path, outcome.item.name
        is_array = path.suffix.lower() == ARRAY_SUFFIX
        picture = open_picture(path, read_array(path) if is_array else None)
        annotated = Annotated(picture, outcome.guesses)
        target = f"{PICTURES}/{name.with_suffix('.png')}"
        if target in self._targets:
            target = f"{PICTURES}/{name}.png"
        self._targets.add(target)
        save_picture(annotate(annotated), self._folder / target)
        self.drawn[outcome.item] = target
        if self._num_seen - 1 in self._chosen:
            self._on_sheet.append(annotated)

    def draw_sheet(self) -> None:
        """Draw the sheet, where there is a picture to be on it."""
        from ppema.annotate import save_picture, sheet

        if self._on_sheet:
            save_picture(sheet(self._on_sheet), self._folder / SHEET)


def look_at(
    config: Any, served: Any, pictures: Sequence[Any], top_k: int, gallery: Gallery
) -> list[Any]:
    """Put the pictures through the model and draw them; tell at once of what cannot be read."""
    from ppema.engine.infer import infer
    from ppema.fast_cpu import FastLayers
    from ppema.progress import track, wipe

    found = infer(
        served.model,
        lambda picture: served.preprocess(picture.path),
        pictures,
        served.class_names,
        batch_size=config.EvalReader.batch_size,
        top_k=top_k,
        fast_layers=FastLayers(served.model, config.fast_cpu),
    )
    outcomes = []
    for outcome in track(found, len(pictures), "naming pictures"):
        gallery.add(outcome)
        outcomes.append(outcome)
        if outcome.fault is not None:
            wipe()
            print(outcome.fault, file=sys.stderr)
    return outcomes


def write_predictions(
    outcomes: Sequence[Any], drawn: dict[Any, str], served: Any, source: Any, folder: Path
) -> None:
    """Write what is known of each file as JSON."""
    from ppema.checkpoint.files import replace_file

    predictions, failures = [], []
    for outcome in outcomes:
        if outcome.fault is not None:
            failures.append({"file": str(outcome.item.path), "reason": outcome.fault})
            continue
        predictions.append(
            {
                "file": str(outcome.item.path),
                "picture": drawn[outcome.item],
                "classes": [guess._asdict() for guess in outcome.guesses],
            }
        )
    facts = {
        "format": FORMAT,
        "source": source,
        "class_names": served.class_names,
        "predictions": predictions,
        "failures": failures,
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    # A file's name may be no UTF-8; what stands for its bytes is escaped, as JSON has it.
    replace_file(folder / PREDICTIONS, text.encode("utf-8", "backslashreplace"))


def table(outcomes: Sequence[Any]) -> str:
    """Return file, class, probability and runner-up of each, in columns."""
    rows = [("file", "class", "probability", "runner-up")]
    for outcome in outcomes:
        first, *others = outcome.guesses
        runner_up = f"{others[0].name} {100 * others[0].probability:.2f} %" if others else ""
        rows.append(
            (str(outcome.item.name), first.name, f"{100 * first.probability:.2f} %", runner_up)
        )
    files, classes, shares = (max(len(row[column]) for row in rows) for column in range(3))
    return "\n".join(f"{f:<{files}}  {c:<{classes}}  {s:>{shares}}  {r}" for f, c, s, r in rows)


if __name__ == "__main__":
    run_tool(main)
