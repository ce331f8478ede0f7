"""The process that trains by GRPO on groups with AAD's answers in them.

Run by ``aad rl --recipe grpo-rollouts`` as

    python -m aad_plugin.training.rl_worker JOB.json --config FILE --output_dir DIR …
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl import GRPOConfig, ModelConfig, TrlParser, get_peft_config

from aad_plugin.errors import ConfigError
from aad_plugin.pair.model import AlignedPair, load_pair
from aad_plugin.texts.rows import json_lines
from aad_plugin.training.implicit_reward import answer_rewards
from aad_plugin.training.owning import with_secrets
from aad_plugin.training.rollouts import MixedGroups, mixed_rollouts

_AS_THEY_ARE: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_p": (1.0,), "top_k": (0,), "min_p": (0.0,), "repetition_penalty": (1.0,),
    "generation_kwargs": ({},),
}  # fmt: skip
"""TRL's options of drawing, with what each says where it changes nothing."""


def main(words: list[str]) -> None:
    """Train as a job says; goes on from ``--resume_from_checkpoint``."""
    job = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    config, model_config = TrlParser((GRPOConfig, ModelConfig)).parse_args_and_config(words[1:])
    _check(config)
    config.model_init_kwargs = {"dtype": model_config.dtype, **(config.model_init_kwargs or {})}
    # The estimate of the KL is over tokens as the policy would draw them: the pair's are weighted likewise.
    config.use_bias_correction_kl = True
    # Answers are drawn, scored and trained on by one policy: with dropout each pass would be another's.
    config.disable_dropout = True
    pair = load_pair(**with_secrets(job["pair"])).to(config.device)
    number = min(max(1, round(job["share"] * config.num_generations)), config.num_generations - 1)
    trainer = MixedGroups(
        model=job["start"],
        reward_funcs=[_reward(pair, job["reward"])],
        args=config,
        train_dataset=_prompts(job["prompts"]),
        peft_config=get_peft_config(model_config),
        rollout_func=mixed_rollouts(pair, number=number, alpha=job["alpha"], temperature=job["temperature"]),
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model(config.output_dir)


def _check(config: Any) -> None:
    if config.use_vllm:
        raise ConfigError("grpo-rollouts draws on transformers, where its correction was checked: leave use_vllm out")
    if config.world_size > 1:
        raise ConfigError(f"grpo-rollouts trains in one process, got {config.world_size}: groups must not be split")
    changed = [name for name, neutral in _AS_THEY_ARE.items() if getattr(config, name, None) not in (*neutral, None)]
    if changed:
        raise ConfigError(f"grpo-rollouts needs answers drawn as they are: leave {', '.join(changed)} out")


def _reward(pair: AlignedPair, name: str) -> Callable[..., list[float]]:
    if name.startswith("reward:"):
        from aad_plugin.judges.kinds.reward import load_scorer

        scorer = load_scorer(name)

        def reward(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
            texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
            return list(scorer.score_answers(prompts, texts))

        return reward
    per_token = name == "implicit_per_token"

    @functools.wraps(answer_rewards)
    def implicit(prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        found = answer_rewards(pair, prompts, completion_ids)
        return [total / max(1, length) if per_token else total for total, length in found]

    return implicit


def _prompts(path: str) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": row["prompt"]} for _, row in json_lines(Path(path))])


if __name__ == "__main__":
    main(sys.argv[1:])
