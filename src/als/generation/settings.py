"""What the modes need to know beside the engine and the problems. Plain values; heavy imports for types only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from als.steering import Steering


@dataclass(frozen=True)
class SelfConsistencySettings:
    """How many samples vote, and how they are drawn."""

    samples: int = 5
    temperature: float = 0.7


@dataclass(frozen=True)
class LatentSeekSettings:
    """The search of LatentSeek (arXiv 2505.13308)."""

    lr: float = 0.03
    """Adam's learning rate."""
    k: float = 0.1
    """Share of the first answer's latent states that become parameters."""
    max_num_steps: int = 10
    reward_threshold: float = -0.2
    """The search ends when the reward, 0 at best, is above this."""
    grad_clip: float | None = None
    """Largest norm of the gradient; None does not clip."""
    boxed_rule: bool = True
    """Whether an answer to the boxed prompt without \\boxed{} loses reward."""
    keep: Literal["best", "last"] = "last"
    """Which text is the answer: that of the best reward seen, or the last one, as in the paper."""


@dataclass(frozen=True)
class Settings:
    """One run's settings; each mode reads the parts that concern it."""

    benchmark: str
    prompt_idx: int = 0
    max_new_tokens: int = 1024
    seed: int = 42
    system_prompt: str | None = None
    """In place of the prompt's own system text; None keeps that, an empty one is none."""
    prefill: str = ""
    """The beginning of the assistant's answer, which the model continues."""
    verifier_max_new_tokens: int | None = None
    """Tokens that a verifier may have; None for max_new_tokens."""
    judge: str = "als"
    """One of `answers.judges.JUDGES`."""
    steering: Steering | None = None
    """For the modes that steer."""
    self_consistency: SelfConsistencySettings = field(default_factory=SelfConsistencySettings)
    latentseek: LatentSeekSettings = field(default_factory=LatentSeekSettings)

    @property
    def verifier_tokens(self) -> int:
        """Tokens that a verifier may have."""
        return self.verifier_max_new_tokens or self.max_new_tokens
