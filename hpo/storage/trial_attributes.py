"""What a trial keeps of its measurement: its user attributes, believed only where they are as this program writes them.

Anybody who may write to a database can change an attribute. One of the wrong kind is left out, as if it were not there;
a trial that was measured to the end and lacks its value or its errors is none of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Annotated, Any

from optuna.trial import FrozenTrial, TrialState
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

Number = Annotated[float, Field(allow_inf_nan=False)]
Errors = Annotated[list[Number], Field(min_length=1)]

KINDS: Mapping[str, Any] = {
    "slot": Annotated[int, Field(ge=0)],
    "worker": dict[str, Any],
    "errors": Errors,
    "errors_by_step": dict[str, Errors],
    "losses_by_step": list[list[Number | None]],
    "gradient_norms": dict[str, list[list[Number | None]]],
    "diverged_rounds": list[int],
    "confusion_matrices": list[list[list[list[Annotated[int, Field(ge=0)]]]]],
    "std": Number | None,
    "parameters": Annotated[int, Field(ge=0)],
    "seconds": Number,
    "device": str,
    "precision": str,
    "versions": dict[str, str],
    "error": str,
    "traceback": str,
    "refused": str,
}
OF_METRIC = "errors_"  # the attributes with the errors by each metric begin so
RULES: Mapping[str, TypeAdapter[Any]] = {
    name: TypeAdapter(kind, config=ConfigDict(strict=True)) for name, kind in KINDS.items()
}


def believed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a trial's attributes without those that are known by name and of another kind."""
    return {key: value for key, value in attributes.items() if _is_as_written(key, value)}


def is_ours(trial: FrozenTrial) -> bool:
    """Says whether this program has started a trial, and it has its one value where it is COMPLETE."""
    kept = believed({key: trial.user_attrs[key] for key in ("slot", "worker") if key in trial.user_attrs})
    values = trial.values or []
    return is_claim(kept) and (
        trial.state is not TrialState.COMPLETE or (len(values) == 1 and math.isfinite(values[0]))
    )


def is_whole(state: TrialState, value: Any, attributes: Mapping[str, Any]) -> bool:
    """Says whether a trial holds what its state promises: one that is COMPLETE a value, and the errors of its rounds.

    Args:
        attributes: those that are believed.
    """
    measured = isinstance(value, float) and math.isfinite(value) and {"errors", "std"} <= attributes.keys()
    return state is not TrialState.COMPLETE or measured


def _is_as_written(key: str, value: Any) -> bool:
    rule = RULES.get(key, RULES["errors"] if key.startswith(OF_METRIC) else None)
    if rule is None:
        return True
    try:
        rule.validate_python(value)
    except ValidationError:
        return False
    return True


@dataclass(frozen=True)
class Worker:
    """A worker process, as its claims name it.

    Attributes:
        file: the file whose lock it holds while it lives.
        parent: the same of the process that looks after it; empty where there is none.
        claim: tells this claim from all others, also from those of the same worker.
    """

    host: str
    pid: int
    device: str
    file: str
    parent: str = ""
    claim: str = ""

    def as_json(self) -> dict[str, Any]:
        """Returns the claim's form in the storage; `claims.CLAIM` tells it by its first keys."""
        return asdict(self)

    @classmethod
    def from_json(cls, kept: Any) -> Worker | None:
        """Reads what a storage holds for a claim; None where it is none. Keys that are not known are passed over."""
        known = {field.name: field for field in fields(cls)}
        given = {key: value for key, value in kept.items() if key in known} if isinstance(kept, dict) else {}
        for key, value in given.items():
            if type(value) is not (int if key == "pid" else str) or "\0" in str(value):
                return None
        missing = [name for name, field in known.items() if name not in given and field.default is MISSING]
        return None if missing else cls(**given)


def is_claim(attributes: Mapping[str, Any]) -> bool:
    """Says whether a trial's attributes have a claim's slot and worker; `claims.Claim` is the same in SQL."""
    slot = attributes.get("slot")
    return type(slot) is int and 0 <= slot < 10**9 and Worker.from_json(attributes.get("worker")) is not None
