"""Studies: many runs that differ in a few keys, what they gave, and what it says."""

from .done import is_trained
from .measure import measure
from .plan import Plan, PlannedRun, count_steps, make_plan
from .report import Report
from .runner import Failure, Runner, Tools, exit_code
from .schema import Study, read_study
from .summary import read_result
from .table import as_text

__all__ = [
    "Failure",
    "Plan",
    "PlannedRun",
    "Report",
    "Runner",
    "Study",
    "Tools",
    "as_text",
    "count_steps",
    "exit_code",
    "is_trained",
    "make_plan",
    "measure",
    "read_result",
    "read_study",
]
