"""The figures of the evidence: which study, what of it, and what stands above the picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence, Union

IMAGES = Path("docs/images")


@dataclass(frozen=True)
class _OfOneStudy:
    study: str

    @property
    def studies(self) -> Sequence[str]:
        """Return the studies that it is drawn from."""
        return (self.study,)


@dataclass(frozen=True)
class Figure(_OfOneStudy):
    """A picture of one study, means at the end or curves.

    Attributes:
        study: by the name of its file.
        title: above the picture.
        variants: as they are named in result.json; empty for all.
        weights: empty for all.
        metric: of means: top1, loss or ece.
        is_curves: whether it is of the curves, which a study with `reach` has.
    """

    title: str
    variants: Sequence[str] = ()
    weights: Sequence[str] = ()
    metric: str = "top1"
    is_curves: bool = False

    @property
    def path(self) -> Path:
        """Return the file of the picture."""
        return IMAGES / f"evidence_{self.study}{'_steps' if self.is_curves else ''}.png"


@dataclass(frozen=True)
class Diagram(_OfOneStudy):
    """A reliability diagram of some weights of one study.

    Attributes:
        study: by the name of its file.
        variant: as it is named in result.json.
        weights: by name.
        title: above the picture.
    """

    variant: str
    weights: str
    title: str

    @property
    def path(self) -> Path:
        """Return the file of the picture."""
        return IMAGES / f"evidence_{self.study}_reliability.png"


@dataclass(frozen=True)
class Headline:
    """The picture of the README: curves of one study, gains over the reference of several.

    Attributes:
        study: whose curves are drawn, of its only variant.
        weights: of the curves.
        level: the accuracy that they are to reach, one of the study's `reach`.
        titles: of the left part, which is followed by the seeds, and of the right one.
        gains: study, variant, weights, and what the gain is called.
    """

    study: str
    weights: Sequence[str]
    level: float
    titles: tuple[str, str]
    gains: Sequence[tuple[str, str, str, str]]

    @property
    def path(self) -> Path:
        """Return the file of the picture."""
        return IMAGES / "evidence.png"

    @property
    def studies(self) -> Sequence[str]:
        """Return the studies that it is drawn from."""
        return tuple(dict.fromkeys([self.study, *(study for study, *_ in self.gains)]))


AnyFigure = Union[Figure, Diagram, Headline]
FIGURES: Sequence[AnyFigure] = (
    Headline(
        "lenet_constant",
        ("raw", "ema"),
        # Which all seeds reach; of the raw weights two get to 98.5 %.
        0.98,
        ("LeNet on MNIST, validation top-1", "Gain of ema, test top-1"),
        (
            ("lenet_constant", "base", "ema", "right\nlabels"),
            ("label_noise", "noise_20", "ema", "20 %\nwrong"),
            ("label_noise", "noise_40", "ema", "40 %\nwrong"),
        ),
    ),
    Figure("lenet_constant", "LeNet on MNIST, constant rate"),
    Figure(
        "lenet_constant",
        "LeNet on MNIST, constant rate: top-1 on validation, mean of the seeds",
        weights=("raw", "ema", "ema_1", "ema_10", "swa"),
        is_curves=True,
    ),
    Figure("label_noise", "LeNet on MNIST, wrong labels in the training data"),
    Diagram(
        "label_noise",
        "noise_40",
        "ema",
        "LeNet on MNIST, 40 % wrong labels: ema, all seeds together",
    ),
    Figure("schedule", "LeNet on MNIST, against a cosine decay without an average"),
    Figure("few_labels", "LeNet on MNIST with few labels"),
    Figure("batch_norm", "LeNet with BatchNorm on MNIST: statistics of the average"),
    Figure("kin", "LeNet on MNIST, against a plain EMA"),
    Figure("label_noise_small", "LeNet on the embedded digits, wrong labels"),
)
