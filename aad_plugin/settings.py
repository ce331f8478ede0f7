"""How to decode: one frozen record of strategy, alpha, n, picker, eft_scale, expo_scale, cd_alpha, cd_beta, noise_step,
temperature, top_p and seed.

Owns names, defaults, ranges and the precedence request > model_args > pair folder > the paper's default. Knows nothing
of models. Imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
from dataclasses import dataclass
from typing import Any

from aad_plugin.errors import ConfigError, nearest

logger = logging.getLogger(__name__)

STRATEGIES: dict[str, str] = {
    "aad": "alignment-aware decoding: the largest token advantage within the policy's plausible set",
    "greedy": "the policy's argmax",
    "reference": "the reference's argmax",
    "sample": "nucleus sampling from the policy",
    "best_of_n": "n samples of the policy, the picker's favourite wins",
    "eft": "emulated fine-tuning: argmax of log π_reference + eft_scale · (log π_policy − log π_reference)",
    "guided": "the largest log π_policy + guide_scale · (log g − log g_reference) within the policy's plausible set",
    "expo": "one model of extrapolated weights: argmax at θ_policy + expo_scale · (θ_policy − θ_reference)",
    "vcd": "visual contrastive decoding: the policy's logits with the picture against those with a noisy copy of it",
}

# The only strategies that a setting can reach. Whatever is not listed here is taken to change every answer.
READ_BY: dict[str, tuple[str, ...]] = {
    "alpha": ("aad", "guided"),
    "n": ("best_of_n",),
    "picker": ("best_of_n",),
    "eft_scale": ("eft",),
    "guide_scale": ("guided",),
    "guide_top_k": ("guided",),
    "expo_scale": ("expo",),
    "cd_alpha": ("vcd",),
    "cd_beta": ("vcd",),
    "noise_step": ("vcd",),
    "temperature": ("sample", "best_of_n"),
    "top_p": ("sample", "best_of_n"),
    "seed": ("sample", "best_of_n", "vcd"),
}

# Above this, sums of logits in float32 keep nothing of the policy, and far above they overflow.
_LARGEST_SCALE = 1e6
NOISE_STEPS = 1000  # of the diffusion that vcd's noise is taken from
_BEST_OF = re.compile(r"best_of_(\d+)$")


@dataclass(frozen=True)
class DecodingSettings:
    """All settings that decide which token follows, given the weights and the prompt.

    Attributes:
        strategy: one of :data:`STRATEGIES`; ``best_of_<n>`` is short for ``best_of_n`` with that n.
        alpha: plausibility threshold of ``aad``, 0 < alpha <= 1, no unit. Default 0.1 (arXiv 2509.26169).
        n: answers drawn by ``best_of_n``, >= 1. Default 2 (the paper's Bo2).
        picker: how ``best_of_n`` chooses: ``implicit`` = Σ log π_policy/π_reference, or ``reward:<model>``.
        eft_scale: strength of ``eft``, finite, >= 0; 1 is plain greedy. Default 1.5, an extrapolation by one half, the
            strength ExPO (arXiv 2404.16792) settled on for Tülu-2-DPO; the EFT paper (arXiv 2310.12962) names none.
        guide_scale: weight of ``guided``'s guides, finite, 0 to a million; 0 is greedy. One number for every guide, or as
            many as there are guides (``1+0.5`` where text is written). Default 1, which is plain proxy-tuning
            (arXiv 2401.08565).
        guide_top_k: candidates of a step that a sequence reward model is asked about, at most, >= 1. Default 10 (ARGS,
            arXiv 2402.01694).
        expo_scale: strength of ``expo``, finite, >= 0; 0 is plain greedy. Default 0.5, what ExPO's authors (arXiv
            2404.16792) settled on for Tülu-2-DPO.
        cd_alpha: weight of ``vcd``'s contrast, 0 to a million; 0 is greedy. Default 1, as in VCD's own code (arXiv
            2311.16922, github.com/DAMO-NLP-SG/VCD, experiments/eval).
        cd_beta: plausibility threshold of ``vcd``, 0 < cd_beta <= 1; 1 is greedy. Default 0.1, likewise (its script for
            POPE takes 0.2).
        noise_step: steps of diffusion that ``vcd``'s noisy pictures have gone through, 0 to 999. Default 500, likewise.
        temperature: of ``sample`` and ``best_of_n``, > 0. Default 1.
        top_p: nucleus of ``sample`` and ``best_of_n``, in (0, 1]. Default 0.95.
        seed: of the sampling noise, together with prompt, sample number and step, and of ``vcd``'s noise, together with
            the picture.
    """

    strategy: str = "aad"
    alpha: float = 0.1
    n: int = 2
    picker: str = "implicit"
    eft_scale: float = 1.5
    guide_scale: float | tuple[float, ...] = 1.0
    guide_top_k: int = 10
    expo_scale: float = 0.5
    cd_alpha: float = 1.0
    cd_beta: float = 0.1
    noise_step: int = 500
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 1234

    def __post_init__(self) -> None:
        self._expand_best_of()
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            raise ConfigError(
                f"strategy must be one of {', '.join(STRATEGIES)} or best_of_<n>, got {self.strategy!r}"
                + nearest(str(self.strategy), STRATEGIES)
            )
        self._number("alpha", lambda v: 0 < v <= 1, "in (0, 1]")
        self._number("eft_scale", lambda v: v >= 0, "at least 0")
        object.__setattr__(self, "guide_scale", _scales(self.guide_scale))
        self._integer("guide_top_k", 1)
        self._number("expo_scale", lambda v: v >= 0, "at least 0")
        self._number("cd_alpha", lambda v: 0 <= v <= _LARGEST_SCALE, f"from 0 to {_LARGEST_SCALE:g}")
        self._number("cd_beta", lambda v: 0 < v <= 1, "in (0, 1]")
        self._integer("noise_step", 0, NOISE_STEPS - 1)
        self._number("temperature", lambda v: v > 0, "above 0 (strategy=greedy is the limit 0)")
        self._number("top_p", lambda v: 0 < v <= 1, "in (0, 1]")
        self._integer("n", 1)
        self._integer("seed", 0)
        if not re.fullmatch(r"implicit|reward:.+", str(self.picker)):
            raise ConfigError(f"picker must be 'implicit' or 'reward:<model>', got {self.picker!r}")
        if self.strategy == "eft" and self.eft_scale == 1:
            logger.warning("eft_scale=1 is plain greedy decoding of the policy; try a value above 1")
        if self.strategy == "expo" and self.expo_scale == 0:
            logger.warning("expo_scale=0 is plain greedy decoding of the policy; try a value above 0")

    @property
    def samples(self) -> bool:
        """Whether answers are drawn with noise."""
        return self.strategy in ("sample", "best_of_n")

    @property
    def needs_reference(self) -> bool:
        """Whether a decoding step reads the reference besides the policy."""
        return self.strategy in ("aad", "eft")

    @property
    def ranks_ratios(self) -> bool:
        """Whether tokens are ranked by what several models say, not by one model's logits."""
        return self.needs_reference or self.strategy in ("guided", "vcd")

    @property
    def roles(self) -> tuple[str, ...]:
        """Whose logits a decoding step reads, the policy's first; what guides read besides, the pair knows."""
        if self.needs_reference:
            return ("policy", "reference")
        own = {"reference": ("reference",), "expo": ("expo",), "vcd": ("policy", "distorted")}
        return own.get(self.strategy, ("policy",))

    def guide_scales(self, number: int) -> tuple[float, ...]:
        """Return the weight of each of so many guides."""
        return self.guide_scale if isinstance(self.guide_scale, tuple) else (self.guide_scale,) * number

    def override(self, **changes: Any) -> DecodingSettings:
        """Return a copy in which every given value that is not None replaces the present one.

        Raises:
            ConfigError: an unknown name (the nearest valid one is suggested) or a value out of range.
        """
        unknown = [name for name in changes if name not in SETTING_NAMES]
        if unknown:
            raise ConfigError(
                f"unknown decoding setting {unknown[0]!r}{nearest(unknown[0], SETTING_NAMES)}; "
                f"the settings are {', '.join(SETTING_NAMES)}"
            )
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **given) if given else self

    def relevant(self) -> dict[str, Any]:
        """Return the settings that can change this strategy's answers, for labels and cache keys.

        A setting that :data:`READ_BY` does not name counts for every strategy.
        """
        return {name: getattr(self, name) for name in SETTING_NAMES if self.strategy in READ_BY.get(name, STRATEGIES)}

    def fingerprint(self, **context: Any) -> str:
        """Return 16 hex digits that differ when any setting or any value of ``context`` (JSON-able) differs."""
        payload = {"settings": dataclasses.asdict(self), "context": context}
        return hashlib.sha256(json.dumps(payload, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _expand_best_of(self) -> None:
        if match := _BEST_OF.fullmatch(str(self.strategy)):
            object.__setattr__(self, "strategy", "best_of_n")
            object.__setattr__(self, "n", int(match[1]))

    def _number(self, name: str, valid: Any, expected: str) -> None:
        value = getattr(self, name)
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and valid(number)):
            raise ConfigError(f"{name} must be a number {expected}, got {value!r}")
        object.__setattr__(self, name, number)

    def _integer(self, name: str, least: int, most: int | None = None) -> None:
        value = getattr(self, name)
        number = int(str(value)) if re.fullmatch(r"-?[0-9]+", str(value).strip()) else None
        if number is None or isinstance(value, bool) or not least <= number <= (number if most is None else most):
            expected = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(f"{name} must be a whole number {expected}, got {value!r}")
        object.__setattr__(self, name, number)


def _scales(given: Any) -> float | tuple[float, ...]:
    """Return one weight, or several as a tuple; raises ConfigError for one that no guide can have."""
    parts: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if isinstance(given, str) and not _is_number(given):
        parts = list(given.split("+"))
    try:
        found = [math.nan if isinstance(one, bool) else float(one) for one in parts]
    except (TypeError, ValueError):
        found = [math.nan]
    if not found or not all(math.isfinite(one) and 0 <= one <= _LARGEST_SCALE for one in found):
        raise ConfigError(
            f"guide_scale must be a number from 0 to {_LARGEST_SCALE:g}, or one per guide (1+0.5), got {given!r}"
        )
    return tuple(found) if len(found) > 1 else found[0]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


SETTING_NAMES: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(DecodingSettings))

TOKEN_SETTINGS = (
    "alpha", "eft_scale", "expo_scale", "guide_scale", "guide_top_k", "cd_alpha", "cd_beta", "noise_step", "seed",
)  # fmt: skip
"""Settings that a step of token-by-token decoding reads."""
