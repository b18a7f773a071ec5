"""LatentSeek (arXiv 2505.13308): search over latent states at test time, guided by the model's own verifiers.

For each problem: a greedy answer, then gradient steps on the latent states of its first tokens. The loss is

    -reward * sum_i log softmax(lm_head(z_i))[argmax]

After a step the argmax tokens of the changed states become a forced beginning, the rest is decoded greedily,
and the new text is rewarded. It ends when the reward is good enough. Decoding uses the KV cache, and the four
verifiers of a text run as one batch: the public code does neither, which flatters whatever is compared with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from als.answers.thinking import answer_part
from als.generation.solve import form_details, judge, line_or_failure, prepare
from als.prompts.solver import is_json
from als.records import Completion, Problem, ResultLine, result_line
from als.reward import Verdicts, reward, verify

if TYPE_CHECKING:
    from torch import Tensor

    from als.engines.latent import Continuation, LatentDecoder
    from als.engines.transformers_engine import TransformersEngine
    from als.generation.settings import LatentSeekSettings, Settings

MAX_LATENTS = 300
"""Parameters of the search are at most so many latent states, however long the answer."""


def run(engine: TransformersEngine, problems: Sequence[Problem], settings: Settings) -> Iterator[ResultLine]:
    """Search for every problem, one after the other."""
    prepared = prepare(engine, problems, settings)
    yield from prepared.failures
    for problem, prompt in zip(prepared.problems, prepared.prompts, strict=True):
        yield Search(engine, problem, prompt, settings, opening=prepared.opening).run()


class Search:
    """The search for one problem's answer.

    Attributes:
        opening: how the answer begins; the prompt ends with it.
        texts: every text tried, the greedy answer first.
        rewards: the reward of each.
        verdicts: the four verdicts on each.
    """

    def __init__(
        self, engine: TransformersEngine, problem: Problem, prompt: str, settings: Settings, *, opening: str = ""
    ) -> None:
        self.engine = engine
        self.problem = problem
        self.prompt = prompt
        self.settings = settings
        self.opening = opening
        self.texts: list[Continuation] = []
        self.rewards: list[float] = []
        self.verdicts: list[Verdicts] = []

    @property
    def seek(self) -> LatentSeekSettings:
        """The search's own settings."""
        return self.settings.latentseek

    def run(self) -> ResultLine:
        """Search until the reward is good enough or the steps are used up."""
        from als.engines.latent import LatentDecoder

        started, generated = time.perf_counter(), self.engine.generated_tokens
        decoder = LatentDecoder(self.engine, self.prompt, max_new_tokens=self.settings.max_new_tokens)
        self._try(decoder.greedy)
        n = min(int(self.seek.k * len(decoder.latents)), MAX_LATENTS)
        searches = n > 0 and not self._good_enough()
        if searches:
            self._search(decoder, decoder.latents[:n].clone())
        line = self._line(decoder, n if searches else 0, time.perf_counter() - started)
        return line.with_details(generated_tokens=self.engine.generated_tokens - generated)

    def _good_enough(self) -> bool:
        return self.rewards[-1] > self.seek.reward_threshold

    def _try(self, text: Continuation) -> None:
        """Reward a text by the four verifiers and the format rule."""
        answer = self.opening + text.text
        verdicts = verify(self.engine, [(self.problem.question, answer)], max_new_tokens=self.settings.verifier_tokens)[
            0
        ]
        # Only the boxed prompt asks for a box; against JSON the rule would put every threshold out of reach.
        ruled = self.seek.boxed_rule and not is_json(self.settings.prompt_idx)
        self.texts.append(text)
        self.verdicts.append(verdicts)
        self.rewards.append(reward(verdicts, unboxed=ruled and "\\boxed{" not in (answer_part(answer) or "")))

    def _search(self, decoder: LatentDecoder, latents: Tensor) -> None:
        """Gradient steps on `latents` ([n, D] float32), each followed by a new text."""
        import torch

        latents.requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=self.seek.lr)
        for _ in range(self.seek.max_num_steps):
            likely = decoder.logits(latents).log_softmax(dim=-1).amax(dim=-1)  # [n]: log p of the argmax
            loss = -self.rewards[-1] * likely.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.seek.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_([latents], self.seek.grad_clip)
            optimizer.step()
            with torch.no_grad():
                forced = decoder.logits(latents).argmax(dim=-1).tolist()
            self._try(decoder.continue_from(forced))
            if self._good_enough():
                return

    def _line(self, decoder: LatentDecoder, updated: int, seconds: float) -> ResultLine:
        best = max(range(len(self.rewards)), key=self.rewards.__getitem__)  # the first among equals
        kept = self.texts[best if self.seek.keep == "best" else -1]
        text = self.opening + kept.text
        completion = Completion(
            text, decoder.prompt_tokens, len(kept.tokens), "stop" if kept.stopped else "length", seconds
        )
        details: dict[str, Any] = dict(
            **form_details(text, kept.tokens, self.settings),
            rewards=self.rewards,
            steps=len(self.rewards) - 1,
            updated_tokens=updated,
            without_verdict=sum(passed is None for verdicts in self.verdicts for passed in verdicts.values()),
        )

        asked = self.prompt.removesuffix(self.opening)

        def make() -> ResultLine:
            verdict = judge(text, self.problem, self.settings)
            return result_line(self.problem, asked, completion, verdict, **details)

        return line_or_failure(make, self.problem, asked, completion)
