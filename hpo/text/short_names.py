"""A configuration in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

WRITTEN_OUT = frozenset(
    ("epochs", "ensemble", "elastic", "warmup", "depth", "dropout", "scale", "stretch", "shear", "shift")
)
"""Parameters whose initial is another's too, of a trial that may have none of this."""


def short_name(params: Mapping[str, bool | int | float | str], beside: Iterable[str] = ()) -> str:
    """Returns `cnn_bn+ws+al leaky_relu sgd lr=0.1383`.

    Texts by value, true flags as + and their initials on what comes before, numbers as initials = value. Where two have
    the same initials, both have their names, as have those whose initial could be taken for one another's.

    Args:
        beside: parameters that are named beside them.
    """
    parts: list[str] = []
    all_initials = [initials(name) for name in {**params, **dict.fromkeys(beside)}]
    for name, value in params.items():
        is_plain = all_initials.count(initials(name)) == 1 and name not in WRITTEN_OUT
        short = initials(name) if is_plain else name
        if value is True:
            parts[-1:] = [f"{parts[-1] if parts else ''}+{short}"]
        elif isinstance(value, str):
            parts.append(value)
        elif value is not False:
            parts.append(f"{short}={value:.4g}")
    return " ".join(parts)


def initials(name: str) -> str:
    """Returns `lr` for `learning_rate`, `nul2` for `n_units_l2`."""
    return "".join(word[:1] + (word[1:] if word[1:].isdecimal() else "") for word in name.split("_"))
