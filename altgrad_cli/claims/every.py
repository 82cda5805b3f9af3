"""Every claim, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from altgrad_cli.claims import block_scales, formats_compared, rounded_gradients, stored_weights
from altgrad_cli.claims.claim import Claim
from altgrad_cli.errors import UsageError, nearest

CLAIMS: Mapping[str, Claim] = MappingProxyType(
    {
        claim.name: claim
        for theme in (stored_weights, formats_compared, rounded_gradients, block_scales)
        for claim in theme.CLAIMS
    }
)
"""In the order in which they are measured and shown."""


def chosen_claims(names: Sequence[str]) -> list[Claim]:
    """The claims of these names, in the order of the registry; all where none is named.

    Raises:
        UsageError: there is no claim of that name.
    """
    for name in names:
        if name not in CLAIMS:
            guess = nearest(name, CLAIMS)
            raise UsageError(
                f"unknown claim: {name}",
                allowed=", ".join(CLAIMS),
                hint=f"did you mean {guess}?" if guess else "altgrad claims --list says what each one is",
            )
    return [claim for name, claim in CLAIMS.items() if not names or name in names]
