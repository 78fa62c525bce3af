"""A module of which only a part is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class PartlyTrained(nn.Module):
    """A module whose state is what it trains: checkpoints need neither the base nor its tied weights."""

    # The Trainer reads this when it resumes.
    _keys_to_ignore_on_save = None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Only what is trained."""
        state = super().state_dict(*args, **kwargs)
        trained = {key for key, parameter in self.named_parameters() if parameter.requires_grad}
        return {key: value for key, value in state.items() if key in trained}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load what `state_dict` kept; the base's own weights are in place already."""
        del strict
        loaded = super().load_state_dict(state_dict, strict=False, assign=assign)
        trained = self.state_dict()
        return type(loaded)([k for k in loaded.missing_keys if k in trained], loaded.unexpected_keys)
