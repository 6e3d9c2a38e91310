"""The evidence: results that are kept are of the studies as they are now, and pages say no more.

What a page may say is told in tools/evidence/numbers.py: a figure in the prose of a section stands
in a table of that section, or in the settings of its study, or in a section that it links to.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from in_process import REPOSITORY
from PIL import Image

from ppema.errors import ConfigError
from ppema.study import make_plan, read_study
from ppema.study.report import render
from ppema.study.summary import SELECTED, RunResult, summarise_variants
from ppema.study.table import columns_of

sys.path.insert(0, str(REPOSITORY / "tools"))

from evidence.declared import FIGURES, Diagram, Figure, Headline
from evidence.figures import draw, facts_of
from evidence.numbers import checked, figures_in, sections_of, unfounded
from evidence.results import KEPT, Results
from evidence.tables import PAGES, TABLE, read_mark, rendered

COMMAND = "python tools/compare.py -c configs/studies/{}.yml"


@pytest.fixture
def committed(monkeypatch):
    """Return the committed results, by way of the folder that they are read from."""
    monkeypatch.chdir(REPOSITORY)
    return Results()


def pages_now():
    return {page: page.read_text(encoding="utf-8") for page in PAGES if page.is_file()}


def test_committed_results_are_whole_and_of_the_studies_as_they_are_planned_now(committed):
    for path in KEPT.glob("*"):
        assert path.name.endswith(".json")
        assert path.stem in committed.names
        committed.read(path.stem).require_sound()


def test_committed_tables_are_of_the_committed_results(committed):
    pages = pages_now()
    assert Path("README.md") in pages
    for page, text in pages.items():
        assert rendered(page, text, committed) == text, "run python tools/make_evidence.py"


def test_committed_pictures_are_of_the_committed_results(committed):
    for figure in FIGURES:
        assert set(figure.studies) <= set(committed.names)
        if all(map(committed.has, figure.studies)):
            with Image.open(figure.path) as picture:
                said = {k: v for k, v in picture.text.items() if k != "Software"}
            assert said == facts_of(figure, committed), "run python tools/make_evidence.py"
        else:
            assert not figure.path.exists()


def test_committed_prose_says_what_its_tables_say(committed):
    assert unfounded(checked(pages_now()), committed) == []


def test_each_committed_table_has_the_command_of_its_study_beside_it(committed):
    for page, text in pages_now().items():
        for section in sections_of(page, text) if page.name == "evidence.md" else []:
            for match in TABLE.finditer(section.text):
                study = read_mark(match[2], "").study
                assert COMMAND.format(study) in section.text, section.anchors


STUDY = f"""\
# A comment says 77.77 %.
base: {REPOSITORY}/configs/lenet_digits.yml
set: {{validation: 0.25, Averages.swa: {{name: StochasticWeightAverage, start: 50 %}}}}
axes: {{noise: {{none: {{}}, 40 %: {{label_noise: 0.4}}}}}}
seeds: [0, 1, 2, 3, 4]
reach: [0.9, 0.985]
"""
MARK = "<!-- table some | variants: noise_40 | weights: raw, ema | columns: top1, difference -->\n"
END = "<!-- end of table -->\n"
TOP1 = {"raw": 0.9, "ema": 0.95, "swa": 0.93}


def result_of(run):
    """Return what a run would give: of each seed a little more, under noise a tenth less."""
    less = 0.1 * ("40" in run.variant.name) - 0.001 * run.seed
    weights, records = {}, []
    for name, top1 in TOP1.items():
        figures = {"top1": top1 - less, "top2": 1.0, "loss": 1 - top1, "ece": 0.01}
        weights[name] = {"validation": figures, "test": figures, "classes": [0, run.seed % 2]}
        # 15 answers of a confidence of a half, of which ten are right.
        in_bin = {"counts": 15, "right": 10, "confidence": 15 << 29}
        weights[name]["reliability"] = {k: [0] * 7 + [v] + [0] * 7 for k, v in in_bin.items()}
        reached = {"steps": 1000 + run.seed, "seconds": 2.5}
        weights[name]["reached"] = {"0.9": reached, "0.985": reached}
        for step in (1000, 2000):
            records.append({"split": "eval", "average": name, "step": step, "top1": top1 - less})
    measured = {"data": {"kind": "digits"}, "machine": {}}
    kept = {**weights, SELECTED: weights["ema"]}
    return RunResult(run, measured, records, kept, "ema", steps=2000, seconds=5.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a result of a made-up study, as text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        write_study()
        plan = make_plan(read_study("configs/studies/some.yml"), [])
    results = [result_of(run) for run in plan.runs]
    facts = {
        **{"study": "some", "file": STUDY, "missing": [], "command": COMMAND.format("some")},
        "variants": summarise_variants(plan, results),
        "runs": [result.as_dict() for result in results],
    }
    return json.dumps(facts)


def write_study(text=STUDY):
    Path("configs/studies").mkdir(parents=True, exist_ok=True)
    Path("configs/studies/some.yml").write_text(text)


@pytest.fixture
def facts(made, run_tool):
    """Return the result, beside its study in this folder."""
    write_study()
    return json.loads(made)


def leave(facts, folder="output/some/result.json"):
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    Path(folder).write_text(render(facts))


@pytest.fixture
def kept(facts):
    """Return the results of this folder, with the made-up one among them."""
    leave(facts, "docs/evidence/some.json")
    return Results()


def test_a_result_is_taken_and_the_table_in_a_page_is_of_it(facts, run_tool):
    leave(facts)
    Path("docs").mkdir()
    page = Path("docs/evidence.md")
    page.write_text(f"before 0.5\n{MARK}old\n{END}after\n")
    result = run_tool("make_evidence", "--take", "output")
    # For the figure in its prose.
    assert (result.code, result.err) == (2, "")
    assert result.out.splitlines() == [
        "kept: docs/evidence/some.json",
        "written: docs/evidence.md",
        "docs/evidence.md:1: 0.5 is in no table of its section, nor of one linked",
    ]
    assert json.loads(Path("docs/evidence/some.json").read_text()) == facts
    assert page.read_text() == (
        f"before 0.5\n{MARK}"
        "| weights | top1, % | top1 - raw, % (95 % interval) |\n"
        "|---|---|---|\n"
        "| raw | 80.20 ± 0.16 | - |\n"
        "| ema * | 85.20 ± 0.16 | +5.00 (+5.00 to +5.00) |\n"
        f"{END}after\n"
    )
    page.write_text(page.read_text().replace("0.5", "no"))
    again = run_tool("make_evidence")
    assert (again.code, again.out, again.err) == (0, "", "")


def test_a_table_has_all_that_is_not_narrowed_down_and_columns_in_the_order_asked(kept):
    columns = "p, n, steps_to_98.5, steps_to_98.5_difference, loss_difference, churn, validation"
    text = rendered(Path("p.md"), f"<!-- table some | columns:\n {columns} -->\n{END}", kept)
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:-1]]
    assert header[:5] == ["variant", "weights", "p", "n", "steps to 98.5 %"]
    names = ["raw", "ema *", "swa", "selected"]
    titles = ["noise none", "noise 40 %"]
    assert [row[:2] for row in rows] == [[title, name] for title in titles for name in names]
    assert rows[1][2:] == [
        *("< 0.001", "5", "1,002 ± 2 (5)", "+0 (+0 to +0)"),
        *("-0.0500 (-0.0500 to -0.0500)", "30.00", "95.20 ± 0.16"),
    ]


@pytest.mark.parametrize(
    ("reference", "above", "cells"),
    [
        # What each run selects is ema.
        ("swa", "swa", ["-3.00", "+2.00", "-", "+2.00"]),
        ("noise_none/raw", "noise none, raw", ["-10.00", "-5.00", "-7.00", "-5.00"]),
    ],
)
def test_a_table_has_differences_to_other_weights_if_it_asks(kept, reference, above, cells):
    mark = f"<!-- table some | variants: noise_40 | reference: {reference} | columns: lead -->\n"
    text = rendered(Path("p.md"), f"{mark}{END}", kept)
    header, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines()[1:-1]]
    assert header == ["weights", f"top1 - {above}, %"]
    assert [row[1] for row in rows] == cells


def test_a_difference_to_the_studys_own_reference_is_the_one_that_is_kept(kept):
    columns = "columns: top1_difference, loss_difference, ece_difference, p"
    marks = [f"<!-- table some |{more} {columns} -->\n" for more in ("", " reference: raw |")]
    own, anew = (rendered(Path("p.md"), f"{mark}{END}", kept).partition("\n")[2] for mark in marks)
    assert own == anew


def test_the_page_about_studies_names_each_column(kept):
    page = (REPOSITORY / "docs/studies.md").read_text(encoding="utf-8")
    part = page.partition("| column |")[2].partition("\n## ")[0]
    pairs = ("difference", "lead", "interval", "p")
    words = set()
    for name in columns_of(kept.read("some").plan):
        of, _, last = name.rpartition("_")
        words |= {f"{of}_", last} if of and last in pairs else {name}
    # The page has one of the two accuracies as an example.
    words -= {word for word in words if "_to_90" in word}
    assert words - set(re.findall(r"`([\w.]+)`", part)) == set()


@pytest.mark.parametrize(
    ("mark", "line"),
    [
        ("sume | columns: p", "there is no study 'sume'; did you mean 'some'?"),
        ("some | columns: top", "there is no column of some named 'top'; did you mean 'top1'?"),
        (
            "some | reference: row | columns: p",
            "there is no set of weights of some named 'row'; did you mean 'raw'?",
        ),
        (
            "some | reference: a/raw | columns: p",
            "there is no variant of some named 'a'; known are noise_none, noise_40",
        ),
        (
            "some | weights: rav | columns: p",
            "there is no weight of some named 'rav'; did you mean 'raw'?",
        ),
        (
            "some | variants: noise_4 | columns: p",
            "there is no variant of some named 'noise_4'; did you mean 'noise_40'?",
        ),
        ("some | colums: p", "there is no 'colums' of a table; did you mean 'columns'?"),
        ("some | weights: raw", "a table needs columns, such as columns: top1, difference, p"),
    ],
)
def test_a_mark_that_cannot_be_is_told_with_its_line(kept, mark, line):
    with pytest.raises(ConfigError) as error:
        rendered(Path("p.md"), f"one\n<!-- table {mark} -->\n{END}", kept)
    assert str(error.value) == f"p.md:2: {line}"


@pytest.mark.parametrize("text", [MARK, f"{END}{MARK}", f"{MARK}{MARK}{END}"])
def test_a_table_without_an_end_swallows_nothing(kept, text):
    with pytest.raises(ConfigError, match=r"^p\.md:\d: the table has no '<!-- end of table -->' "):
        rendered(Path("p.md"), text, kept)


def test_a_page_whose_result_is_not_kept_is_refused_and_nothing_is_written(facts, refuse):
    Path("docs").mkdir()
    Path("docs/evidence.md").write_text(f"{MARK}{END}")
    assert refuse(3, "make_evidence") == (
        "docs/evidence.md:1: no result of some is kept as docs/evidence/some.json; run the study, "
        "then python tools/make_evidence.py --take output"
    )


def changed(facts, fault):
    """Return a result with a fault."""
    run = facts["runs"][1]
    if fault == "missing":
        return {**facts, "missing": ["noise none, seed 4", "noise 40 %, seed 4"]}
    if fault == "seeds":
        return {**facts, "variants": [{**facts["variants"][0], "n": 4}]}
    if fault == "file":
        return {**facts, "file": STUDY.replace("25", "3")}
    if fault == "study":
        return {**facts, "study": "other"}
    if fault == "curve":
        del facts["variants"][0]["weights"]["raw"]["curve"]
        return facts
    if fault == "run":
        return {**facts, "runs": facts["runs"][:1]}
    return {**facts, "runs": [facts["runs"][0], {**run, fault: "x"}, *facts["runs"][2:]]}


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("missing", "lacks noise none, seed 4 and 1 more; run the study to its end"),
        ("seeds", "has 4 seeds of a variant; evidence needs 5 or more"),
        ("file", "is of another text of configs/studies/some.yml; run the study again"),
        ("study", "is no result of the study some"),
        (
            "curve",
            "is of an earlier version; write it anew: python tools/compare.py -c "
            "configs/studies/some.yml --report",
        ),
        ("run", "lacks noise 40 %, seed 0; run the study again"),
        ("config_sha256", "noise 40 %, seed 0: was trained by another config than is planned now"),
        ("command", "noise 40 %, seed 0: was trained by another command than is planned now"),
    ],
)
def test_a_result_that_is_no_evidence_is_not_taken(facts, refuse, fault, line):
    leave(changed(facts, fault))
    said = refuse(3, "make_evidence", "--take", "output")
    assert said == f"output/some/result.json: {line}"


def test_a_kept_result_of_a_study_that_was_changed_since_is_told(kept, refuse):
    write_study(STUDY.replace("0.25", "0.3"))
    assert refuse(3, "make_evidence") == (
        "docs/evidence/some.json: is of another text of configs/studies/some.yml; run the study "
        "again"
    )


def test_a_result_of_the_stand_in_for_mnist_is_not_taken(facts, refuse):
    text = STUDY.replace("lenet_digits", "lenet_mnist")
    write_study(text)
    leave({**facts, "file": text})
    assert refuse(3, "make_evidence", "--take", "output") == (
        "output/some/result.json: is of the embedded digits, not of MNIST; run it where the data "
        "are"
    )


@pytest.mark.parametrize(
    ("code", "arguments", "line"),
    [
        (2, ["some"], "studies are named to be taken; say from where by --take DIR"),
        (3, ["--take", "none"], "none: no study has a result.json there"),
        (2, ["--take", "none", "sume"], "there is no study 'sume'; did you mean 'some'?"),
        (
            3,
            ["--take", "none", "some"],
            "none/some/result.json: there is no such file; run the study",
        ),
    ],
)
def test_what_cannot_be_taken_is_said_in_a_line(facts, refuse, code, arguments, line):
    assert refuse(code, "make_evidence", *arguments) == line


def test_it_runs_in_the_repository_only(refuse):
    assert refuse(2, "make_evidence") == (
        "there is no configs/studies here; run this in the repository's folder"
    )


GAIN = ("some", "noise_40", "ema", "noise")
HEADLINE = Headline("some", ("raw", "ema"), 0.985, ("left", "right"), (GAIN,))


@pytest.mark.parametrize(
    "figure",
    [
        Figure("some", "t"),
        Figure("some", "t", is_curves=True),
        Diagram("some", "noise_40", "ema", "t"),
        HEADLINE,
    ],
)
def test_a_picture_tells_from_which_results_it_was_drawn(facts, kept, figure):
    draw(figure, kept)
    with Image.open(figure.path) as picture:
        said = {k: v for k, v in picture.text.items() if k != "Software"}
    assert said == facts_of(figure, kept)
    leave({**facts, "missing": ["one"]}, "docs/evidence/some.json")
    now = facts_of(figure, Results())
    assert now["some.json"] != said["some.json"]


def test_a_picture_of_what_there_is_not_is_refused(kept):
    for figure in (
        Figure("some", "t", weights=["emma"]),
        Figure("some", "t", variants=["x"]),
        Diagram("some", "noise_40", "emma", "t"),
        Headline("some", ("raw",), 0.5, ("left", "right"), (GAIN,)),
    ):
        with pytest.raises(ConfigError, match=r"^tools/evidence/declared\.py: some: there is no "):
            draw(figure, kept)


def lines_of(kept, prose, more=""):
    """Return the figures that are told of a section with a table, and of the rest of its page."""
    text = f"# Title\n\n## A question?\n\n{prose}\n\n{MARK}{END}\n{more}"
    page = Path("docs/evidence.md")
    told = unfounded({page: rendered(page, text, kept)}, kept)
    return [re.fullmatch(r"docs/evidence\.md:(\d+): (\S+) is in no table .*", t)[2] for t in told]


@pytest.mark.parametrize(
    "prose",
    [
        "From 80.20 to 85.20 %, a gain of 5.00 points (95 % interval).",
        "Five seeds, 5 seeds, of 2,000 steps each, half of them (50 %) averaged, 40 % wrong.",
        "```text\n12.34\n```\n<!-- 12.34 --> [page](x-12.34.md), top-1, `ema_03`, Paddle 3.3.1",
        "As in arXiv 2411.18704, with 8 averages.",
    ],
)
def test_prose_may_say_what_stands_in_its_table_or_its_study(kept, prose):
    assert lines_of(kept, prose) == []


@pytest.mark.parametrize(
    ("prose", "told"),
    [
        ("It gains 5.01 points.", ["5.01"]),
        ("It gains 6 points,\nor 7\n%.", ["6", "7"]),
        ("A comment of the study says 77.77 %.", ["77.77"]),
        ("After 1,234 images, 900 steps and 3000 more.", ["1,234", "900", "3000"]),
        ("| by hand | 12.34 |", ["12.34"]),
        ("![a picture of 12.34](images/x.png) `0.123`", ["12.34", "0.123"]),
        ("-5.02, +5.03 and (5.04).", ["5.02", "5.03", "5.04"]),
    ],
)
def test_a_figure_that_stands_nowhere_is_told(kept, prose, told):
    assert lines_of(kept, prose) == told


def test_a_section_says_what_another_has_only_where_it_links_to_it(kept):
    more = '<a name="short"></a>\n## In short\n\nIt gains 5.00 points{}.\n'
    assert lines_of(kept, "-", more.format("")) == ["5.00"]
    assert lines_of(kept, "-", more.format(" ([why](#a-question))")) == []
    assert lines_of(kept, "See [this](evidence.md#short).", more.format("")) == ["5.00"]


def test_figures_are_told_with_their_line():
    assert list(figures_in("one\n0.5 and\n```\n1.5\n```\n2.5")) == [(1, "0.5"), (5, "2.5")]
