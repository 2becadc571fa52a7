"""The peer of gpu.py: transformers' Qwen2ForCausalLM of the same shape, random weights, in PyTorch.

    python benchmarks/gpu.py --peer

StaticCache, 32 rows, 64 tokens each drawn from the softmax, at the positions pfjax decodes: rows
that share a prompt hold it once each. Eager, then with model and draw compiled together, mode
"reduce-overhead", which records CUDA graphs. A draw is the first of exponential races, as in gpt-fast.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable

ROWS, REPEATS = 32, 5


def run_peer(options: Namespace) -> None:
    """Rows of the parts into the log, like `gpu_parts.run_child`."""

    def record(part: str, **row) -> None:
        with options.log.open("a") as log:
            log.write(json.dumps({"part": part, "variant": "peer", **row}) + "\n")
        print(f"{time.time() - options.began:6.1f} s  {part} {row}", flush=True)

    shape = json.loads(options.shape)
    try:
        measure(options.parts.split(";"), shape["sizes"], shape["there"], shape["new"], record)
    except ImportError as error:
        for part in options.parts.split(";"):
            record(part, error=str(error))


def measure(parts: list[str], sizes: dict, there: int, new: int, record: Callable) -> None:
    """Decodes `new` tokens behind `there` tokens."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, StaticCache, __version__

    versions = f"torch {torch.__version__}, transformers {__version__}"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fields = {k: v for k, v in sizes.items() if k != "architectures"}
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        config = Qwen2Config(**fields, attn_implementation="sdpa")
        model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        cache = StaticCache(config=config, max_cache_len=there + 2 * new)
        tokens = torch.randint(0, config.vocab_size, (ROWS, there), device=device)
        model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        positions = [torch.full((ROWS, 1), there + i, device=device) for i in range(new)]

        def step(token, position):
            out = model(token, position_ids=position, past_key_values=cache, use_cache=True)
            p = torch.softmax(out.logits[:, -1].float(), dim=-1)
            return (p / torch.empty_like(p).exponential_(1)).argmax(dim=-1, keepdim=True)

        def decode(advance: Callable) -> float:
            _rewind(cache, there)
            token = tokens[:, :1].clone()
            _wait(torch, device)
            began = time.perf_counter()
            for position in positions:
                torch.compiler.cudagraph_mark_step_begin()
                token = advance(token, position).clone()
            _wait(torch, device)
            return time.perf_counter() - began

        for part in parts:
            compiled = "compiled" in part
            advance = torch.compile(step, mode="reduce-overhead") if compiled else step
            began = time.perf_counter()
            try:
                decode(advance)
                first = time.perf_counter() - began
                decode(advance)
                seconds = [decode(advance) for _ in range(REPEATS)]
            except Exception as error:
                record(part, error=f"{type(error).__name__}: {str(error).strip()[:200]}")
                continue
            row = {"rows": ROWS, "iterations": new, "first_seconds": first, "seconds": seconds}
            record(part, versions=versions, **row)


def _rewind(cache, length: int) -> None:
    """So many columns used; the counter lives in each layer, or, in older versions, nowhere."""
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length.fill_(length)


def _wait(torch, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
