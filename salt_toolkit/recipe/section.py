"""One section against its model: every fault of it, typed, and in the user's words."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from salt_toolkit.errors import SaltError, SettingError, explain
from salt_toolkit.recipe.layers import suggest
from salt_toolkit.recipe.lines import Key

ModelT = TypeVar("ModelT", bound=BaseModel)

_DATES = {datetime.datetime: "date and time", datetime.date: "date", datetime.time: "time"}
"""What TOML knows and JSON does not."""

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a section.

    Attributes:
        place: Keys and indices within the section; empty for a rule between several keys.
        message: What was found, and what is allowed.
        kind: Pydantic's type of the error, or ``rule``; see `errors.Problem`.
        fields: Settings of the section that a rule is about, as far as its author says so.
        leave_out: Those of them that the message advises to leave out.
    """

    place: Key
    message: str
    kind: str
    fields: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()


def read_section(
    values: Mapping[str, Any], model: type[ModelT], beside: Sequence[str] = (), provider: str | None = None
) -> tuple[ModelT | None, list[Fault]]:
    """Reads one section: the model, or all that is wrong.

    Rules between keys are asked even while other keys are wrong, as far as the others do not matter to them.

    Args:
        values: The section's keys, as TOML gives them.
        model: What they must be.
        beside: Keys of the section that the model need not know.
        provider: Whose model it is, where it is a plugin's; its mistakes are faults as well.
    """
    reading = _Reading(values, model, beside, provider)
    return reading.found, reading.faults


class _Reading(Generic[ModelT]):
    """One section being read."""

    def __init__(
        self, values: Mapping[str, Any], model: type[ModelT], beside: Sequence[str], provider: str | None
    ) -> None:
        self.model, self.beside, self.provider = model, beside, provider
        self.values = values
        self.dates: dict[Place, str] = {}
        self.plain = {name: self._without_dates((name,), value) for name, value in values.items()}
        self.faults: list[Fault] = []
        self.found = self._read(self.plain)
        if self.found is None:
            self._ask_the_rules()
        for place, shown in self.dates.items():
            if not any(_within(fault.place, place) for fault in self.faults):
                self._add(place, f"found {shown}; expected a value that is no date or time", "date")
                self.found = None

    def _read(self, plain: Mapping[str, Any]) -> ModelT | None:
        """The model, or None and the faults."""
        try:
            # JSON mode: strict, and yet arrays become tuples; see pydantic's strict mode.
            return self.model.model_validate_json(json.dumps(plain))
        except ValidationError as error:
            for details in error.errors(include_url=False):
                rule = details.get("ctx", {}).get("error")
                kind = "rule" if details["type"] == "value_error" else details["type"]
                self._add(details["loc"], self._message(details), kind, rule)
        except SaltError as error:
            self._add((), str(error), "rule")
        except BaseException as error:  # a third party's validator may raise anything, and hides no other problem
            if self.provider is None:
                raise
            self._add((), f"{self.provider}: {explain(error)}", "plugin")
        return None

    def _ask_the_rules(self) -> None:
        """Reads what is left without wrong keys, for the faults between keys that pydantic has not come to."""
        wrong = {fault.place[0] for fault in self.faults if fault.place}
        rest = {name: value for name, value in self.plain.items() if name not in wrong}
        if len(wrong) == 0 or len(rest) == len(self.plain):
            return
        judged = {name for name in wrong if name in self.model.model_fields}
        before, self.faults = self.faults, []
        self._read(rest)
        # A rule about a wrong key would judge the key's default, which nobody asked for; a rule that does not say what
        # it is about may be one of those.
        rules = [fault for fault in self.faults if not fault.place and (fault.fields or not judged)]
        rules = [fault for fault in rules if not judged & set(fault.fields)]
        self.faults = [*before, *(fault for fault in rules if fault not in before)]

    def _without_dates(self, place: Place, value: Any) -> Any:
        """The value as JSON can say it; a date becomes what no key takes."""
        if isinstance(value, dict):
            return {name: self._without_dates((*place, name), inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._without_dates((*place, number), inner) for number, inner in enumerate(value)]
        if isinstance(value, tuple(_DATES)):
            self.dates[place] = shown(value)
            return {}
        return value

    def _add(self, place: Place, message: str, kind: str, rule: object = None) -> None:
        fields, leave_out = (rule.fields, rule.leave_out) if isinstance(rule, SettingError) else ((), ())
        given = tuple(name for name in leave_out if name in self.values)
        self.faults.append(Fault(tuple(str(part) for part in place), message, kind, fields, given))

    def _message(self, details: Mapping[str, Any]) -> str:
        """One of pydantic's errors in the user's words."""
        place: Place = details["loc"]
        name = str(place[0]) if place else ""
        field = self.model.model_fields.get(name)
        about = f" ({field.description})" if field and field.description else ""
        if details["type"] == "extra_forbidden":
            return f"unknown key; {suggest(name, [*self.model.model_fields, *self.beside])}"
        if details["type"] == "missing":
            return f"missing{about}"
        if details["type"] == "value_error":
            return str(details["ctx"]["error"])
        date = next((text for known, text in self.dates.items() if place[: len(known)] == known), None)
        expected = details["msg"].replace("Input should be", "expected")
        expected = re.sub(r"^\w+ should have (.+?)( after validation.*)?$", r"expected \1", expected)
        if details["type"] == "string_pattern_mismatch":
            expected = f"expected text of the regular expression {details['ctx']['pattern']}"
        return f"found {date or shown(details['input'])}; {expected}{about}"


def shown(value: Any) -> str:
    """A value of a recipe, as its author would know it."""
    for kind, name in _DATES.items():
        if isinstance(value, kind):
            return f"the {name} {value}"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _within(place: Key, outer: Place) -> bool:
    return place[: len(outer)] == tuple(str(part) for part in outer)
