"""The two engines side by side, for the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from als.steering import Steering

MAX_NEW_TOKENS = 24
PROMPTS = 32


@dataclass
class Bench:
    """The two engines, the prompts, and a vector that changes what the model says."""

    transformers: Any
    vllm: Any
    prompts: list[str]
    vector: Any  # [L, D]
    norms: Any  # [L] the states' typical norm
    done: dict[str, Any] = field(default_factory=dict)

    def steering(self, layer: int, scale: str, tau: float | None) -> Steering:
        """As long as the state that it is added to; the three scales differ a little in strength."""
        alpha = {"raw": 2.0, "unit": 0.9 * float(self.norms[layer]), "residual": 1.1}[scale]
        return Steering(self.vector, layer, alpha, scale, tau)

    def plain(self) -> list[Any]:
        """What the transformers engine answers without steering."""
        if "plain" not in self.done:
            self.done["plain"] = answers(self.transformers, self.prompts)
        return self.done["plain"]


def answers(engine: Any, prompts: list[str], **options: Any) -> list[Any]:
    """The outputs of an engine in the order of the prompts."""
    outputs = dict(engine.generate(prompts, **{"max_new_tokens": MAX_NEW_TOKENS, **options}))
    return [outputs[i] for i in range(len(outputs))]


def texts(outputs: list[Any]) -> list[str]:
    return [output.completion.text for output in outputs]
