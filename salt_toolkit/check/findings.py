"""What a check finds, and what it knows of a recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from salt_toolkit.errors import MissingArtifact, RecipeError, explain

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


def findings_of(key: str, error: BaseException, *, whole_recipe: bool = False) -> list[Finding]:
    """What an exception becomes in a report; a third party's code may raise anything, which costs its answer only.

    Args:
        key: The section or key that the question was about.
        error: What was raised instead of an answer.
        whole_recipe: Whether more than one component was asked, so that a `RecipeError` names keys of the recipe. One
            component names its own.

    Raises:
        BaseException: ``error`` again, if it is a Ctrl-C.
    """
    if isinstance(error, RecipeError):
        base = "" if whole_recipe else key
        return [
            Finding("error", ".".join(part for part in (base, problem.key) if part), problem.message)
            for problem in error.problems
        ]
    explained = explain(error)
    severity = "missing" if isinstance(explained, MissingArtifact) else "error"
    return [Finding(severity, key, explained.what, explained.fix)]


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
