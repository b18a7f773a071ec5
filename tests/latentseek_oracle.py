"""LatentSeek once more, slow and plain, for the tests to hold the implementation against.

It shares nothing with als.generation.latentseek and als.engines: no cache, no batch, no padding. The whole
sequence is computed again for every token, the verifiers are asked one by one, and the logits of the search are
written out as what they are: latents times the head's weights, soft-capped where the configuration says so.

Here is also a tokenizer whose vocabulary holds verdicts and boxes, so that a random model judges its own
answers at random instead of never.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from als.prompts.verifier import verifier_messages

WEIGHTS = {"calculation": 2, "answer": 1, "completeness": 2, "understanding": 1}
Verdicts = dict[str, bool | None]


@dataclass
class Judge:
    """Asks the model itself; `boxed` makes an answer without a box lose 2 more of 6. A text is asked about once."""

    model: Any
    tokenizer: Any
    question: str
    eos: Sequence[int]
    max_new_tokens: int
    boxed: bool = False
    asked: dict[str, Verdicts] = field(default_factory=dict)
    costs: dict[str, int] = field(default_factory=dict)  # text -> tokens of its four verdicts

    def verdicts(self, text: str) -> Verdicts:
        """One check after the other."""
        if text not in self.asked:
            self.asked[text] = self._ask(text)
        return self.asked[text]

    def _ask(self, text: str) -> Verdicts:
        found = {}
        self.costs[text] = 0
        for check in WEIGHTS:
            messages = verifier_messages(check, question=self.question, completion=text)
            prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            tokens, _ = decode(self.model, ids, eos=self.eos, max_new_tokens=self.max_new_tokens)
            self.costs[text] += len(tokens)
            said = self.tokenizer.decode(tokens, skip_special_tokens=True)
            found[check] = last_verdict(said) if tokens[-1] in self.eos else None
        return found

    def reward(self, text: str) -> float:
        """From 0 down to -1, or to -8/6 with the box."""
        failed = sum(WEIGHTS[check] for check, verdict in self.verdicts(text).items() if verdict is not True)
        return -(failed + 2 * (self.boxed and "\\boxed{" not in text)) / 6


def last_verdict(text: str) -> bool | None:
    """The verdict of `judging_tokenizer` that a text ends with."""
    return {"true": True, "false": False}.get(text.rpartition("verdict:")[2])


@torch.no_grad()
def decode(
    model: Any, prompt: Sequence[int], *, eos: Sequence[int], max_new_tokens: int, forced: Sequence[int] = ()
) -> tuple[list[int], Tensor]:
    """Greedy tokens behind forced ones, ended by the first end token of either kind; the latents that chose them.

    The latents are what goes into the LM head, [T, D] float32, also for forced tokens.
    """
    latents: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _head, inputs: latents.append(inputs[0][0, -1].float()))
    tokens: list[int] = []
    try:
        while len(tokens) < max_new_tokens and (not tokens or tokens[-1] not in eos):
            ids = torch.tensor([[*prompt, *tokens]], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, -1]
            tokens.append(forced[len(tokens)] if len(tokens) < len(forced) else int(logits.argmax()))
    finally:
        hook.remove()
    return tokens, torch.stack(latents)


def head_logits(model: Any, latents: Tensor, *, capped: bool = True) -> Tensor:
    """[n, D] float32 -> [n, V]: the LM head written out."""
    head = model.get_output_embeddings()
    logits = latents @ head.weight.detach().float().T
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias.detach().float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap and capped else logits


@dataclass(frozen=True)
class Found:
    """All texts that were tried, as tokens and as text, and the reward of each; the number of parameters."""

    tokens: list[list[int]]
    texts: list[str]
    rewards: list[float]
    updated: int


def search(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    reward: Callable[[str], float],
    *,
    eos: Sequence[int],
    max_new_tokens: int,
    lr: float,
    k: float,
    max_num_steps: int,
    reward_threshold: float,
    grad_clip: float | None = None,
    capped: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Found:
    """The search as the paper has it. `capped` and `dtype` are for tests that show that they matter."""

    def text_of(answer: Sequence[int]) -> str:
        return tokenizer.decode(answer, skip_special_tokens=True)

    answer, latents = decode(model, prompt, eos=eos, max_new_tokens=max_new_tokens)
    tried, rewards = [answer], [reward(text_of(answer))]
    n = min(int(k * len(answer)), 300)
    z = latents[:n].to(dtype).clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=lr)
    while n > 0 and rewards[-1] <= reward_threshold and len(rewards) <= max_num_steps:
        log_probs = head_logits(model, z.float(), capped=capped).log_softmax(dim=-1)
        chosen = log_probs.argmax(dim=-1)
        loss = -rewards[-1] * sum(log_probs[i, chosen[i]] for i in range(n))
        optimizer.zero_grad()
        loss.backward()
        if grad_clip is not None and float(z.grad.norm()) > grad_clip:
            z.grad.mul_(grad_clip / float(z.grad.norm()))
        optimizer.step()
        forced = head_logits(model, z.detach().float()).argmax(dim=-1).tolist()
        answer, _ = decode(model, prompt, eos=eos, max_new_tokens=max_new_tokens, forced=forced)
        tried.append(answer)
        rewards.append(reward(text_of(answer)))
    return Found(tried, [text_of(answer) for answer in tried], rewards, n)


def judging_tokenizer(words: int) -> Any:
    """A word a token; one in four is a true verdict, one in four a false one, one in twelve a box."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {"<end>": 0, **{_word(i): i for i in range(1, words)}}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=_word(3)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.padding_side = "left"
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return fast


def _word(i: int) -> str:
    if i % 4 < 2:
        return f"w{i}-verdict:{'true' if i % 4 == 0 else 'false'}"
    return f"\\boxed{{{i}}}" if i % 12 == 2 else f"w{i}"
