"""How the scan state is stored between two tokens, by the names that --ssm-state-dtype takes.

int8 has calibrated scales; int8-dynamic and int8-stochastic find one a row whenever the row is written, and
round to the nearest code or up by chance (plugins/common/scan_state.py).
"""

from __future__ import annotations

from typing import Literal, get_args

SsmStateDtype = Literal["float16", "float32", "int8", "int8-dynamic", "int8-stochastic"]
STATE_DTYPES: tuple[SsmStateDtype, ...] = get_args(SsmStateDtype)


def stored_as(name: SsmStateDtype) -> str:
    """The dtype of the state's tensor."""
    return name.partition("-")[0]


def has_row_scales(name: SsmStateDtype) -> bool:
    """Whether the rows of the state are scaled as they are written, with their scales in a second tensor."""
    return name in ("int8-dynamic", "int8-stochastic")
