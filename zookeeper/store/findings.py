"""What `zookeeper verify` can find, as values that can be printed and compared."""

from __future__ import annotations

from dataclasses import dataclass

QUARANTINE = "quarantine"
AGAIN = "Run the same build again: it trains what is missing and keeps what is there."


@dataclass(frozen=True, slots=True)
class Lost:
    """Checkpoints that cannot be read: every listed model at every listed epoch."""

    models: tuple[str, ...]
    epochs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Parameters
    ----------
    kind
        ``header``, ``record``, ``shard``, ``table``, ``state``, ``cache``, ``orphan``, ``duplicate``, ``gap``,
        ``contradiction``, ``content`` or ``metrics``.
    where
        The file, relative to the zoo, or the cohort.
    what, remedy
        What was expected and what was found; what to do.
    record
        Name of the commit record it belongs to, if any.
    lost
        Checkpoints that cannot be read because of it, if any.
    """

    kind: str
    where: str
    what: str
    remedy: str
    record: str | None = None
    lost: Lost | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify_zoo` looked at and found; ``notes`` are worth knowing and no problem."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    num_files: int
    num_bytes: int
    num_rows: int

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings
