"""What an app sends: the bundle's prompt, system text and schema as a request, ready for curl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from edgekit.bundle import Manifest

TEXT: Final = "A table for two, tomorrow at seven, please."
REQUEST: Final = "request.json"


def messages(manifest: Manifest) -> list[dict[str, str]]:
    """One question as the bundle asks it, with a text to replace."""
    asked = manifest.prompt.replace("{text}", TEXT, 1) if manifest.prompt else TEXT
    system = [{"role": "system", "content": manifest.system}] if manifest.system else []
    return [*system, {"role": "user", "content": asked}]


def openai(manifest: Manifest, model: str) -> dict[str, Any]:
    """For /v1/chat/completions of llama-server, LM Studio and vLLM."""
    body: dict[str, Any] = {"model": model, "messages": messages(manifest)}
    if manifest.output_schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(manifest.output_schema)}
        body |= {"temperature": 0, "response_format": {"type": "json_schema", "json_schema": schema}}
    return body


def ollama(manifest: Manifest, model: str) -> dict[str, Any]:
    """For Ollama's /api/chat; its Modelfile says the system text already."""
    asked = [message for message in messages(manifest) if message["role"] != "system"]
    body: dict[str, Any] = {"model": model, "messages": asked, "stream": False}
    return body if manifest.output_schema is None else body | {"format": dict(manifest.output_schema)}
