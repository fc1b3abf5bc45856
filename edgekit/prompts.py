"""What is asked, as tokens: a prompt or messages, after the bundle's system text, through the chat template."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgekit import chat as templates
from edgekit.arguments import check, check_text
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.runtimes.engine import Engine

PLACE: Final = "{text}"
"""Where an extraction's text goes in its prompt template."""


class Prompts:
    """Mixed into ``Model``: what it asks with, and how that becomes tokens."""

    name: str
    prompt: str | None
    system: str | None
    schema: Any
    _engine: Engine
    _using: threading.RLock
    """Held while the engine's vocabulary is used: a model that is closed meanwhile would take it along."""

    def extraction_prompt(self, text: str, prompt: str | None = None) -> str:
        """The prompt that ``extract`` asks with."""
        check_text("prompt", prompt)
        prompt = self.prompt if prompt is None else prompt
        if prompt is None:
            raise self._missing("prompt template")
        if PLACE not in prompt:
            raise InputError(f"the prompt template has no place for the text: {PLACE}", found=prompt[:200])
        return prompt.replace(PLACE, text, 1)

    def extraction_schema(self, schema: Any = None) -> Any:
        """The schema that ``extract`` holds the answer to."""
        schema = self.schema if schema is None else schema
        if schema is None:
            raise self._missing("output schema")
        return schema

    def _missing(self, what: str) -> InputError:
        return InputError(
            f"there is no {what} to extract by",
            path=self.name,
            next_step=f"pass one, or build the bundle with one (a prompt template holds {PLACE})",
        )

    def messages(
        self, prompt: str, *, system: str | None = None, raw: bool = False
    ) -> str | Sequence[Mapping[str, Any]]:
        """A prompt as what is asked: the user's turn after the system's, or the text as it stands."""
        check("prompt", prompt, str, "a text")
        check_text("system", system)
        if raw or self._engine.chat_template is None:
            if system is not None:
                raise InputError("a system text needs a chat template", found="raw" if raw else "no template")
            return prompt
        start = [] if system is None else [{"role": "system", "content": system}]
        return self.conversation([*start, {"role": "user", "content": prompt}])

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Messages as they are asked: after the bundle's system text where they have none."""
        if self._engine.chat_template is None:
            raise InputError(
                "the model has no chat template", path=self.name, next_step="use generate(), which needs none"
            )
        check("messages", messages, (list, tuple), "a list of {'role', 'content'} messages")
        if not messages:
            raise InputError("there is no message to answer")
        if self.system is not None and not any(
            isinstance(message, Mapping) and message.get("role") == "system" for message in messages
        ):
            return [{"role": "system", "content": self.system}, *messages]
        return messages

    def tokens(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a text as it stands, or of messages through the chat template."""
        engine = self._engine
        with self._using:
            if not isinstance(prompt, str):
                return templates.tokenize(engine, engine.chat_template or "", prompt)
            bos = engine.specials.get(engine.bos_token) if engine.add_bos else None
            return ([] if bos is None else [bos]) + engine.tokenize(prompt, special=False)

    def said(self, text: str) -> list[int]:
        """Token ids of a text that the model itself might say."""
        with self._using:
            return self._engine.tokenize(text, special=False)
