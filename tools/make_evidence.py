"""Keep the results of studies, and bring the tables and pictures of the pages up to date.

python tools/make_evidence.py --take output
python tools/make_evidence.py

Tables stand in pages between marks (tools/evidence/tables.py says how to write them), pictures are
declared in tools/evidence/declared.py. Both are made from docs/evidence alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Sequence

from ppema.console import PlainParser, import_paddle, run_tool
from ppema.errors import ConfigError


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = PlainParser(__doc__ or "")
    parser.add_argument(
        "--take", type=Path, metavar="DIR", help="keep DIR/<study>/result.json in docs/evidence"
    )
    parser.add_argument(
        "studies", nargs="*", metavar="STUDY", help="to be taken; by default all that DIR has"
    )
    arguments = parser.parse_args(argv)
    if arguments.studies and arguments.take is None:
        raise ConfigError("studies are named to be taken; say from where by --take DIR")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Take results, write tables and pictures, and return the exit code.

    It is 2 where the prose of a page has a figure that no table beside it has.
    """
    arguments = parse_arguments(argv)
    # The configs of a study need it, and it takes a second.
    import_paddle()
    from evidence.declared import FIGURES
    from evidence.figures import draw
    from evidence.numbers import checked, unfounded
    from evidence.results import Results
    from evidence.tables import PAGES, rendered

    from ppema.checkpoint.files import replace_file

    results = Results()
    if arguments.take is not None:
        for path in results.take(arguments.take, arguments.studies):
            print(f"kept: {path}")
    for name in filter(results.has, results.names):
        results.read(name).require_sound()
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES if page.is_file()}
    # All are made before the first is written: a mark may be wrong.
    made = {page: rendered(page, text, results) for page, text in pages.items()}
    for page, text in made.items():
        if text != pages[page]:
            replace_file(page, text.encode())
            print(f"written: {page}")
    for figure in FIGURES:
        if all(map(results.has, figure.studies)):
            draw(figure, results)
            print(f"drawn: {figure.path}")
    lines = unfounded(checked(made), results)
    for line in lines:
        print(line)
    return 2 if lines else 0


if __name__ == "__main__":
    run_tool(main)
