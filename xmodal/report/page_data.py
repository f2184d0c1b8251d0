"""The data that a report page is rendered from: run records, embeddings of held-out pairs, quarantined rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xmodal.report.held_out_pairs import PairEmbeddings, ReportPairs
from xmodal.report.quarantine_view import QuarantineReason
from xmodal.run.run_record import EvaluationRecord, RunRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class PageRun:
    """One run of a report page."""

    record: RunRecord
    color: int  # index of the run's colour in the charts, 1..6
    checkpoint: str | None = None  # URI of the checkpoint that was loaded
    step: int | None = None  # step of that checkpoint
    parameters: int | None = None  # number of parameters of its model
    embeddings: PairEmbeddings | None = None  # of the page's held-out pairs, by the model of that checkpoint
    evaluations: tuple[EvaluationRecord, ...] = ()  # those that the run recorded, or those computed for the page
    quarantine_reasons: tuple[QuarantineReason, ...] = ()

    label: str = ""  # used in place of the run's name where two runs of a page have the same name

    @property
    def name(self) -> str:
        """The run's name on the page, unique among its runs."""
        return self.label or self.record.name


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """All data of a report page.

    `missing` maps the id of a section to a sentence: what the section lacks, and which command adds it.
    """

    runs: tuple[PageRun, ...]
    pairs: ReportPairs | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    created: str = ""  # ISO time at which the page was made
    version: str = ""  # of xmodal

    @property
    def runs_with_embeddings(self) -> tuple[PageRun, ...]:
        """The runs whose models have embedded the held-out pairs."""
        return tuple(run for run in self.runs if run.embeddings is not None)
