"""What methods that learn on frozen experts share: one fit, stored in the zoo, made once and only read in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lorafuse_bench.fusion.base import FusionMethod, Need, option


@dataclass(frozen=True)
class Fitted(FusionMethod):
    """A method that `lorafuse fit` learns on top of frozen experts, at least with some of its options."""

    fitted_on: str | None = option(
        None, "suite it was fitted on, where the zoo has a fit on several; by default the only one"
    )

    needs: ClassVar[frozenset[Need]] = frozenset({"fit"})
    at_use: ClassVar[frozenset[str]] = frozenset()
    """Options that do not shape what is learned: one fit serves all their values."""

    def fit_options(self) -> dict[str, Any]:
        """The options that shape what is learned."""
        return {
            key: value
            for key, value in self.options().items()
            if key != "fitted_on" and key not in self.at_use
        }

    def serves(self, fitted: Sequence[str], used: Sequence[str]) -> bool:
        """Whether what was learned on the experts `fitted`, in order, can be used with the experts `used`."""
        return tuple(fitted) == tuple(used)
