"""How a subject is to be measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .remote import Remote


@dataclass(frozen=True)
class Settings:
    """What the command line says.

    Args:
        rounds: of every measurement; None leaves it to each.
        is_quick: small sizes and few rounds: whether it runs, not how fast.
        torch: the process that torch is asked in, None where there is no torch.
        dataset_dir: the folder of MNIST's archives, None for the embedded digits.
    """

    rounds: Optional[int] = None
    is_quick: bool = False
    torch: Optional[Remote] = None
    dataset_dir: Optional[Path] = None

    def rounds_or(self, usual: int) -> int:
        """Return the rounds to take where `usual` are enough for a sound median."""
        if self.rounds is not None:
            return self.rounds
        return 3 if self.is_quick else usual

    @property
    def least_s(self) -> float:
        """Return how long a sample of something short has to take, so that the clock is no part."""
        return 0.001 if self.is_quick else 0.02
