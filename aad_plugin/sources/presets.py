"""Public SFT/DPO couples by short name, and the embedded demo pair.

Each id was checked against public documentation of its family; the reference is what the policy was tuned from.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A named pair.

    Attributes:
        policy, reference: hub ids; empty for an embedded pair, whose parts come from the package and its cache.
        about: what it is and where the couple is documented.
    """

    policy: str
    reference: str
    about: str

    @property
    def embedded(self) -> bool:
        """Whether the pair is shipped with this package (``aad_plugin.demo.assets``)."""
        return not self.policy


def _families() -> dict[str, Preset]:
    """One SFT under many losses each, as SimPO's authors published them; every id stands in their README's tables."""
    where = "arXiv 2405.14734; github.com/princeton-nlp/SimPO, README"
    families = {
        "llama3-8b": ("princeton-nlp/Llama-3-Base-8B-SFT", "princeton-nlp/Llama-3-Base-8B-SFT",
                      ("DPO", "IPO", "CPO", "KTO", "ORPO", "RDPO", "SimPO")),
        "mistral-7b": ("princeton-nlp/Mistral-7B-Base-SFT", "alignment-handbook/zephyr-7b-sft-full",
                       ("DPO", "IPO", "CPO", "KTO", "RDPO", "SimPO", "SLiC-HF", "RRHF")),
    }  # fmt: skip
    unmeasured = ("CPO", "ORPO", "SimPO", "SLiC-HF", "RRHF")
    found = {}
    for name, (policy, reference, losses) in families.items():
        for loss in losses:
            about = f"{loss} over one SFT ({where})"
            if loss in unmeasured:
                about += "; the loss knows no reference: its start stands in for one"
            found[f"{name}-{loss.lower()}"] = Preset(f"{policy}-{loss}", reference, about)
    return found


PRESETS: dict[str, Preset] = {
    "demo": Preset("", "", "SmolLM2-135M-Instruct and a LoRA policy shipped with this package; runs on any CPU"),
    "demo@1": Preset("", "", "the first demo pair, trained on dialogue alone; kept for the figures made with it"),
    "demo-vision": Preset("", "", "a pair that sees pictures of coloured shapes, over the same base; runs on any CPU"),
    "olmo2-1b": Preset(
        "allenai/OLMo-2-0425-1B-DPO", "allenai/OLMo-2-0425-1B-SFT", "OLMo 2 1B (arXiv 2501.00656, model card)"
    ),
    "olmo2-7b": Preset(
        "allenai/OLMo-2-1124-7B-DPO", "allenai/OLMo-2-1124-7B-SFT", "OLMo 2 7B, one of the AAD paper's public pairs"
    ),
    "olmo2-13b": Preset(
        "allenai/OLMo-2-1124-13B-DPO", "allenai/OLMo-2-1124-13B-SFT", "OLMo 2 13B, one of the AAD paper's public pairs"
    ),
    "tulu3-8b": Preset(
        "allenai/Llama-3.1-Tulu-3-8B-DPO", "allenai/Llama-3.1-Tulu-3-8B-SFT", "Tülu 3 8B (arXiv 2411.15124, model card)"
    ),
    "zephyr-7b": Preset(
        "HuggingFaceH4/zephyr-7b-beta",
        "HuggingFaceH4/mistral-7b-sft-beta",
        "Zephyr 7B β (arXiv 2310.16944, model card)",
    ),
    **_families(),
}
