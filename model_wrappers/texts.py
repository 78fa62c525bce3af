"""From texts to tokens: lm-eval's Hugging Face model, whose tokenizer and chat template may not fit its base."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from lm_eval.models.huggingface import HFLM

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.zoo.manifest import Zoo


class TextsLM(HFLM):
    """lm-eval's Hugging Face model on the base of `zoo`; what its tokenizer cannot do is a LorafuseError."""

    zoo: Zoo

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The text of the tokenizer's template of that name; LorafuseError where it has none."""
        known = getattr(self.tokenizer, "chat_template", None)
        if chat_template and not known:
            raise LorafuseError(
                f"the tokenizer of base '{self.zoo.base_name}' has no chat template. Leave --apply_chat_template out."
            )
        if isinstance(chat_template, str) and isinstance(known, dict) and chat_template not in known:
            raise unknown("chat template", chat_template, known)
        found: str | None = super().chat_template(chat_template)
        return found

    def tok_encode(self, string: str, *how: Any, **settings: Any) -> list[int]:
        """A text's tokens; LorafuseError for one that the base has no embedding of: the tokenizer is another's."""
        ids: list[int] = super().tok_encode(string, *how, **settings)
        embeddings = self.model.get_input_embeddings().weight.shape[0]
        if max(ids, default=0) >= embeddings:
            raise LorafuseError(
                f"the tokenizer of base '{self.zoo.base_name}' makes token {max(ids)}, and the base has"
                f" {embeddings}. Save the tokenizer that belongs to it."
            )
        return ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation in the tokenizer's template; LorafuseError where that cannot be filled in."""
        try:
            return str(super().apply_chat_template(chat_history, add_generation_prompt))
        except TemplateError as error:
            raise LorafuseError(
                f"the chat template of base '{self.zoo.base_name}' cannot be used: {type(error).__name__}: {error}."
                " Repair it, or leave the template out."
            ) from error
