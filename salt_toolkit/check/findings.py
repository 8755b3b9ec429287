"""What a check finds, and how an exception becomes a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
