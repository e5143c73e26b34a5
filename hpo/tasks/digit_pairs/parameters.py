"""The parameters of networks that compare digits, of their loss and of their data: what each may be, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hpo.errors import suggestion
from hpo.study.schema import Count, Factor
from hpo.study.task import Params
from hpo.study.training import BelowOne
from hpo.tasks.digit_pairs.architectures import architectures, takers_of


def _known(architecture: str) -> str:
    known = architectures()
    if architecture not in known:
        raise ValueError(f"no architecture named {architecture!r}; {suggestion(architecture, known)}")
    return architecture


Architecture = Annotated[str, AfterValidator(_known)]
Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[float, Field(ge=0, le=14)]
SIZES = ("width", "depth", "dropout")  # of an architecture, where its function takes them

RULES: Mapping[str, Any] = {
    "architecture": Architecture,
    "activation": Literal["relu", "leaky_relu", "elu", "selu", "silu"],
    "weight_sharing": bool,
    "elu_alpha": Factor,
    "auxiliary_loss": bool,
    "auxiliary_share": Share,
    "label_smoothing": BelowOne,
    "width": Count,
    "depth": Count,
    "dropout": BelowOne,
    "pairing": Literal["fixed", "every epoch"],
    "rotation": Annotated[float, Field(ge=0, le=180)],
    "scale": BelowOne,
    "stretch": Share,
    "shear": Share,
    "shift": Pixels,
    "elastic": Pixels,
    "gamma": Annotated[float, Field(ge=0, le=10)],
}

CONDITIONS: Mapping[str, Mapping[str, Any]] = {
    "elu_alpha": {"activation": "elu"},
    "auxiliary_share": {"auxiliary_loss": True},
    **{name: {"architecture": takers_of(name)} for name in SIZES},
}

EXAMPLE: Params = {  # report A's final network
    "architecture": "cnn_bn",
    "weight_sharing": True,
    "auxiliary_loss": True,
    "activation": "leaky_relu",
}
