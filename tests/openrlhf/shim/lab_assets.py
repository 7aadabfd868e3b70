"""Makes what the tiny runs need: a word-level tokenizer, a Llama of 0.46 million parameters, datasets.

The task is counting: ``count from 17 :`` is to be answered by ``18 19 20 21 22 23 24 25 </s>``. A third of the numbers
in the SFT data are wrong, so that PPO starts with a weak but present signal (reward about 0.25).
Run by build_env.sh: ``python lab_assets.py FOLDER``.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUMBERS = 100
ANSWER = 8
VOCABULARY = 512
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def main(folder: Path) -> None:
    """Fill ``folder``; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder / "tiny")
    save_model(folder / "tiny")
    dice = random.Random(11)
    write(folder / "sft.jsonl", ({"input": prompt(n), "output": noisy(n, 0.35, dice)} for n in starts(8000, dice)))
    for name, count in (("preferences", 4000), ("eval_preferences", 64)):
        pairs = (
            {"prompt": prompt(n), "chosen": exact(n), "rejected": noisy(n, 0.6, dice)} for n in starts(count, dice)
        )
        write(folder / f"{name}.jsonl", pairs)
    for name, count in (("prompts", 16000), ("eval_prompts", 32)):
        rows = ({"input": prompt(n), "label": str(n), "datasource": "count"} for n in starts(count, dice))
        write(folder / f"{name}.jsonl", rows)


def save_tokenizer(folder: Path) -> None:
    words = [*SPECIAL, "count", "from", ":", *map(str, range(NUMBERS))]
    words += [f"unused{i}" for i in range(VOCABULARY - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, bos, eos, unk = SPECIAL
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    ).save_pretrained(folder)


def save_model(folder: Path) -> None:
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def starts(count: int, dice: random.Random) -> Iterable[int]:
    return (dice.randrange(NUMBERS) for _ in range(count))


def prompt(start: int) -> str:
    return f"count from {start} :"


def exact(start: int) -> str:
    return " ".join(str((start + 1 + i) % NUMBERS) for i in range(ANSWER))


def noisy(start: int, wrong_ratio: float, dice: random.Random) -> str:
    """An answer of 6 to 12 numbers in which each is replaced by any other with that probability."""
    right = [(start + 1 + i) % NUMBERS for i in range(dice.randint(6, 12))]
    return " ".join(str(dice.randrange(NUMBERS) if dice.random() < wrong_ratio else number) for number in right)


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
