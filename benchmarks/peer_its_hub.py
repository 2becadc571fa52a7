"""its-hub's particle filter on transformers, a peer of benchmarks/engine.py.

`ParticleFiltering` and `StepGeneration` are its-hub's own; the language model and the reward model
behind its two interfaces are here. Every step its-hub sends the whole text again: it is tokenized,
padded on the left and generated from in one call for all particles, with a cache inside that call
alone; the reward model reads every whole prefix. its-hub resamples every step (multinomial), weighs
by the odds of the prefix, finished particles too, and answers with the heaviest particle.

its-hub searches one question at a time. With `together` > 1 that many searches run at once on one
event loop, and what they wait for at the same time goes through the models in one batch.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from its_hub.api import AbstractLanguageModel, AbstractProcessRewardModel, ChatMessage
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
from its_hub.core.lms.step_generation import StepGeneration
from peer_transformers import DELIMITER, PROBE, RewardModel, load_reward_model
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
    StoppingCriteriaList,
    StopStringCriteria,
)

from pfjax.tasks.grading import extract_answer


@dataclass
class Tokens:
    """Of the policy: sampled, and read again at the start of each step; of the reward model: read."""

    policy: int = 0
    read_again: int = 0
    prm: int = 0


class Solved(NamedTuple):
    """Answers of a list of questions (None where there is none), seconds of all, tokens of all."""

    answers: list[str | None]
    seconds: float
    tokens: Tokens


@dataclass
class Batched:
    """Joins the lists of all calls that are made in one turn of the event loop.

    Whoever waits for an answer of the same call goes on in the same turn, so searches that start
    together stay together.
    """

    function: Callable[[list], list]
    waiting: list = field(default_factory=list)

    async def __call__(self, items: list) -> list:
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self._run)
        future = loop.create_future()
        self.waiting.append((items, future))
        return await future

    def _run(self) -> None:
        waiting, self.waiting = self.waiting, []
        try:
            found = iter(self.function([item for items, _ in waiting for item in items]))
            for items, future in waiting:
                future.set_result([next(found) for _ in items])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)


class LanguageModel(AbstractLanguageModel):
    """A policy behind its-hub's interface; `step_tokens` is its own limit of a response."""

    def __init__(
        self,
        policy: Qwen2ForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        step_tokens: int,
        tokens: Tokens,
    ):
        self.policy, self.tokenizer, self.tokens = policy, tokenizer, tokens
        self.step_tokens = step_tokens
        self.stop = StoppingCriteriaList([StopStringCriteria(tokenizer, DELIMITER)])
        self.batched = Batched(self._generate)

    async def agenerate(
        self,
        messages: list[list[ChatMessage]],
        stop: str | None = None,
        *,
        temperature: float | None = None,
        max_completion_tokens: int | None = None,
        include_stop_str_in_output: bool | None = None,
        tools: list[dict] | None = None,
        tool_choice: str | dict | None = None,
    ) -> list[dict]:
        """A response for each conversation; an assistant's message at the end is gone on with."""
        asked = (stop, temperature, max_completion_tokens, include_stop_str_in_output, tools)
        if asked != (DELIMITER, 1.0, None, False, None):
            raise ValueError(f"generation was asked for with {asked}, wanted the delimiter, 1.0.")
        texts = await self.batched([self._text(m) for m in messages])
        return [{"role": "assistant", "content": text} for text in texts]

    def _text(self, messages: list[ChatMessage]) -> str:
        begun = messages[-1].role == "assistant"
        return self.tokenizer.apply_chat_template(
            [m.to_dict() for m in messages],
            tokenize=False,
            add_generation_prompt=not begun,
            continue_final_message=begun,
        )

    @torch.inference_mode()
    def _generate(self, texts: list[str]) -> list[str]:
        pad = self.tokenizer.eos_token_id
        rows = self.tokenizer(
            texts,
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        found = self.policy.generate(
            rows["input_ids"],
            attention_mask=rows["attention_mask"],
            max_new_tokens=self.step_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            stopping_criteria=self.stop,
            eos_token_id=pad,
            pad_token_id=pad,
        )
        new = found[:, rows["input_ids"].shape[1] :]
        self.tokens.policy += int((new != pad).sum())
        self.tokens.read_again += int(rows["attention_mask"].sum())
        written = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.split(DELIMITER)[0] for text in written]


class StepRewards(AbstractProcessRewardModel):
    """A reward model behind its-hub's interface: the probability at the probe of the last step."""

    def __init__(self, prm: RewardModel, tokenizer: PreTrainedTokenizerBase, tokens: Tokens):
        self.prm, self.tokenizer, self.tokens = prm, tokenizer, tokens
        self.batched = Batched(self._probabilities)

    async def ascore(self, prompt_or_messages: str, steps: list[str]) -> list[float]:
        """One number for each response, given as its steps joined by the delimiter."""
        chat = [{"role": "user", "content": prompt_or_messages}]
        prompt = self.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        read = [prompt + s.replace(DELIMITER, PROBE) + PROBE for s in steps]
        return await self.batched(read)

    def score(self, prompt_or_messages: str, steps: list[str]) -> list[float]:
        return asyncio.run(self.ascore(prompt_or_messages, steps))

    def _probabilities(self, texts: list[str]) -> list[float]:
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.tokens.prm += sum(map(len, rows))
        return torch.sigmoid(self.prm.log_odds(rows)).tolist()


class ItsHubFilter:
    """its-hub's particle filter with the policy and reward model of two Hugging Face folders.

    Budgets are those of the embedded models: `max_steps` steps of `step_tokens` tokens.
    """

    def __init__(
        self,
        policy: Path,
        prm: Path,
        *,
        step_tokens: int = 12,
        max_steps: int = 10,
        dtype: torch.dtype = torch.float32,
    ):
        self.tokens = Tokens()
        tokenizer = AutoTokenizer.from_pretrained(policy)
        model = Qwen2ForCausalLM.from_pretrained(policy, dtype=dtype).eval()
        self.lm = LanguageModel(model, tokenizer, step_tokens, self.tokens)
        rewards = StepRewards(load_reward_model(prm, dtype), tokenizer, self.tokens)
        # its-hub stops a particle one step after max_steps.
        steps = StepGeneration(max_steps - 1, DELIMITER, stop_token="\\boxed", temperature=1.0)
        self.algorithm = ParticleFiltering(steps, rewards)

    def solve(
        self, questions: list[str], particles: int = 16, *, together: int = 1, seed: int = 0
    ) -> Solved:
        """Searches the questions in groups of `together`."""
        random.seed(seed)
        torch.manual_seed(seed)
        vars(self.tokens).update(vars(Tokens()))
        began = time.perf_counter()
        chosen = []
        for start in range(0, len(questions), together):
            chosen += asyncio.run(self._group(questions[start : start + together], particles))
        seconds = time.perf_counter() - began
        answers = [extract_answer(response["content"]) for response in chosen]
        return Solved(answers, seconds, Tokens(**vars(self.tokens)))

    async def _group(self, questions: list[str], particles: int) -> list[dict]:
        searches = [self.algorithm.ainfer(self.lm, question, particles) for question in questions]
        return await asyncio.gather(*searches)
