"""A particle filter written by hand with transformers and torch, a peer of benchmarks/engine.py.

    resample (systematic)    generate one step from the kept cache    score every whole prefix again

The prompt is read once and its cache repeated; `generate` goes on from the cache of the last step; the
ancestors are taken with `batch_select_indices`. The reward model keeps no cache, as in every published
system. `write_pair` makes a random policy and reward model of a published shape for both sides. Steps
are handed over as ids, because most ids of the random pair have no text.
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.utils import logging

from pfjax.search.loading import resolve

DELIMITER, PROBE = "\n\n", "<extra_0>"
HALF_BILLION = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


logging.set_verbosity_error()
logging.disable_progress_bar()


class Run(NamedTuple):
    """Seconds of one search, and how many of them went to the two models.

    `policy_tokens` were sampled; `prm_tokens` were read by the reward model, prefixes as often as it
    reads them.
    """

    seconds: float
    policy_seconds: float
    prm_seconds: float
    policy_tokens: int
    prm_tokens: int


@dataclass(frozen=True)
class RewardModel:
    """The decoder and two-class head of a `Qwen2ForProcessRewardModel`, read at the last token."""

    decoder: Qwen2Model
    head: nn.Sequential

    @torch.inference_mode()
    def log_odds(self, rows: list[list[int]]) -> Tensor:
        """float32[rows], each row read whole in one padded batch."""
        ids, mask = padded(rows)
        full = None if bool(mask.all()) else mask
        hidden = self.decoder(ids, attention_mask=full, use_cache=False).last_hidden_state
        classes = self.head(hidden[torch.arange(len(rows)), mask.sum(1) - 1]).float()
        return classes[:, 1] - classes[:, 0]


class TransformersFilter:
    """Policy and reward model of two Hugging Face folders, in `dtype` on the CPU."""

    def __init__(self, policy: Path, prm: Path, dtype: torch.dtype = torch.float32):
        self.tokenizer = AutoTokenizer.from_pretrained(policy)
        self.policy = Qwen2ForCausalLM.from_pretrained(policy, dtype=dtype).eval()
        self.prm = load_reward_model(prm, dtype)
        self.stop = StoppingCriteriaList([StopStringCriteria(self.tokenizer, DELIMITER)])

    @torch.inference_mode()
    def run(
        self,
        question: str,
        particles: int = 16,
        *,
        steps: int = 8,
        step_tokens: int = 32,
        seed: int = 0,
    ) -> Run:
        """One search of `steps` steps, each ended by the delimiter or after `step_tokens` tokens.

        Every step is resampled and none is the last early: the work is fixed, for models that never
        write an end.
        """
        torch.manual_seed(seed)
        began = time.perf_counter()
        prompt = chat_ids(self.tokenizer, question)
        probe = self.tokenizer.convert_tokens_to_ids(PROBE)
        tokens = torch.tensor([prompt])
        cache = DynamicCache(config=self.policy.config)
        self.policy(tokens[:, :-1], cache=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(particles)
        tokens = tokens.repeat(particles, 1)
        mask, scored, value = torch.ones_like(tokens), [prompt] * particles, torch.zeros(particles)
        policy_tokens = prm_tokens = 0
        prm_seconds = 0.0
        for _ in range(steps):
            tokens, mask, new = self.propose(tokens, mask, cache, step_tokens)
            scored = [row + ids + [probe] for row, ids in zip(scored, new, strict=True)]
            policy_tokens += sum(map(len, new))
            prm_tokens += sum(map(len, scored))
            start = time.perf_counter()
            old, value = value, self.prm.log_odds(scored)
            prm_seconds += time.perf_counter() - start
            ancestors = systematic(value - old)
            cache.batch_select_indices(ancestors)
            tokens, mask, value = tokens[ancestors], mask[ancestors], value[ancestors]
            scored = [scored[i] for i in ancestors.tolist()]
        seconds = time.perf_counter() - began
        return Run(seconds, seconds - prm_seconds, prm_seconds, policy_tokens, prm_tokens)

    def propose(
        self, tokens: Tensor, mask: Tensor, cache: DynamicCache, step_tokens: int
    ) -> tuple[Tensor, Tensor, list[list[int]]]:
        """(tokens, mask, the new ids of every row) after one step; `cache` grows in place.

        Tokens and mask are int64[rows, columns]; all columns but the last are in the cache.
        """
        width, pad = tokens.shape[1], self.tokenizer.eos_token_id
        found = self.policy.generate(
            tokens,
            attention_mask=mask,
            cache=cache,
            max_new_tokens=step_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            stopping_criteria=self.stop,
            eos_token_id=pad,
            pad_token_id=pad,
        )
        real = (found[:, width:] != pad).cumprod(1)
        new = [row[:n].tolist() for row, n in zip(found[:, width:], real.sum(1), strict=True)]
        mask = torch.cat([mask, real], 1)
        bring_last_forward(found, mask)
        return found, mask, new


def bring_last_forward(tokens: Tensor, mask: Tensor) -> None:
    """Moves every row's last real token to the last column, in place.

    A row that ended early has padding there, and `generate` goes on from the last column: the only
    one that is not in the cache.
    """
    last = (mask * torch.arange(mask.shape[1])).argmax(1, keepdim=True)
    tokens[:, -1:] = tokens.gather(1, last)
    mask.scatter_(1, last, 0)
    mask[:, -1] = 1


def systematic(log_weights: Tensor) -> Tensor:
    """int64[n] ancestors of n teeth of a comb with one random shift."""
    n = len(log_weights)
    teeth = (torch.arange(n) + torch.rand(())) / n
    ends = torch.softmax(log_weights, 0).cumsum(0)
    return torch.searchsorted(ends, teeth, right=True).clamp(max=n - 1)


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, mask) of rows padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    return ids, (torch.arange(width) < lengths).long()


def chat_ids(tokenizer: PreTrainedTokenizerBase, question: str) -> list[int]:
    """The chat-formatted question, as policy and reward model see it."""
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def load_reward_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """From a folder of the form of Qwen2.5-Math-PRM; the head is read from model.safetensors."""
    decoder = Qwen2Model.from_pretrained(folder, dtype=dtype).eval()
    width = decoder.config.hidden_size
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)).to(dtype)
    stored = load_file(Path(folder) / "model.safetensors")
    names = [name for name in stored if name.startswith("score.")]
    head.load_state_dict({name.removeprefix("score."): stored[name] for name in names})
    return RewardModel(decoder, head.eval())


def write_pair(
    folder: Path, shape: dict = HALF_BILLION, positions: int = 1024
) -> tuple[Path, Path]:
    """Random policy and reward model of a shape in bfloat16, with the embedded models' tokenizer.

    The folders load in transformers and in pfjax; 2 GB for half a billion weights each.
    """
    torch.manual_seed(0)
    fields = shape | {"max_position_embeddings": positions, "eos_token_id": 0, "pad_token_id": 0}
    policy = Qwen2ForCausalLM(Qwen2Config(**fields)).to(torch.bfloat16)
    policy.save_pretrained(folder / "policy")
    prm = Qwen2Model(Qwen2Config(**fields)).to(torch.bfloat16)
    width = shape["hidden_size"]
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)).to(torch.bfloat16)
    named = {f"model.{k}": v for k, v in prm.state_dict().items()}
    named |= {f"score.{k}": v for k, v in head.state_dict().items()}
    (folder / "prm").mkdir(parents=True, exist_ok=True)
    save_file(named, folder / "prm" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "policy" / "config.json").read_text())
    config["architectures"] = ["Qwen2ForProcessRewardModel"]
    (folder / "prm" / "config.json").write_text(json.dumps(config))
    for name in ("policy", "prm"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(resolve("embedded:small") / file, folder / name)
    return folder / "policy", folder / "prm"


def question_of(tokenizer: PreTrainedTokenizerBase, length: int = 128) -> str:
    """A question whose chat-formatted text has `length` tokens."""
    extra = len(chat_ids(tokenizer, "has "))
    question = "has " * (length - extra + 1)
    if len(chat_ids(tokenizer, question)) != length:
        raise ValueError(f"no question of {length} tokens with this tokenizer; write one by hand.")
    return question
