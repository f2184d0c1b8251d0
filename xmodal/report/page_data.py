"""What a page is made of: the records of its runs, and what was computed from their models and a held-out corpus."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xmodal.report.held_out_pairs import Embedded, Pairs
from xmodal.report.quarantine_view import Reason
from xmodal.run.run_record import Evaluated, Recorded


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One run of a page. `slot` (1..6) is its colour."""

    recorded: Recorded
    slot: int
    checkpoint: str | None = None  # URI of the checkpoint that was loaded
    step: int | None = None  # its step
    parameters: int | None = None
    embedded: Embedded | None = None  # the pairs of the page in its space
    evaluations: tuple[Evaluated, ...] = ()  # recorded ones, or those computed for the page
    reasons: tuple[Reason, ...] = ()  # what was quarantined

    label: str = ""  # where two runs of a page have the same name

    @property
    def name(self) -> str:
        return self.label or self.recorded.name


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """`missing` says for a section, in one line, what it lacks and which command adds it."""

    runs: tuple[Shown, ...]
    pairs: Pairs | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    made: str = ""  # when the page was made, ISO time
    version: str = ""  # of xmodal

    @property
    def encoded(self) -> tuple[Shown, ...]:
        """The runs whose models were loaded."""
        return tuple(run for run in self.runs if run.embedded is not None)
