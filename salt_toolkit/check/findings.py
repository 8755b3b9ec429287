"""What a check finds, and what it knows of a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from salt_toolkit.errors import MissingArtifact, SaltError, mistake_of_a_plugin

Severity = Literal["error", "missing", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that a user should know before the run.

    Attributes:
        severity: error: the recipe cannot work. missing: it cannot work on this machine yet.
            warning: it works, though perhaps not as meant. note: it works as meant, and this should be known;
            nothing fails because of it.
        key: The recipe's section or key.
        message: What was found.
        fix: What to do about it.
    """

    severity: Severity
    key: str
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.message}{self.fix and '. ' + self.fix}"


def finding_of(key: str, error: Exception) -> Finding:
    """What an error becomes that a part of the recipe raised when it was asked.

    A third party's code may raise anything, and must not take the whole report along.
    """
    if isinstance(error, MissingArtifact):
        return Finding("missing", key, error.what, error.fix)
    return Finding("error", key, str(error) if isinstance(error, SaltError) else mistake_of_a_plugin(error))


@dataclass
class Report:
    """What `check_recipe` found out.

    Attributes:
        findings: In the order of the recipe.
        facts: Names and values for people and programs; a value is None where it is unknown.
    """

    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def has(self, *severities: Severity) -> bool:
        """Whether there is a finding of one of these severities."""
        return any(finding.severity in severities for finding in self.findings)

    def as_dict(self, path: Path) -> dict[str, Any]:
        """The report of one recipe, in plain values."""
        findings = [asdict(finding) for finding in self.findings]
        return {"recipe": str(path), "ok": not self.has("error"), "facts": self.facts, "findings": findings}
