"""Engines that tests share: the demo pair for real text, in a process of its own; toy pairs for token equality.

A toy engine runs inside this process, where it starts in seconds: one of its own imports everything again. There can be
one such engine at a time, since the end of one takes down the process groups of all.
"""

import gc
import os
from unittest import mock

import pytest
import torch

from tests.harness.conftest import task_folder

__all__ = ["demo_model", "task_folder"]

# vLLM on a CPU cannot load what it saved compiled ahead of time and compiles anew at every start; without, it can.
os.environ.setdefault("VLLM_USE_AOT_COMPILE", "0")

ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 32}
if torch.cuda.is_available():
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    ENGINE |= {"kv_cache_memory_bytes": 2**31, "gpu_memory_utilization": 0.2}


@pytest.fixture(scope="session")
def demo_model():
    """The demo pair as ``--model aad-vllm``, float32."""
    from aad_plugin.harness.vllm_model import AADVLLM

    return AADVLLM(pair="demo", **ENGINE)


@pytest.fixture(scope="session")
def toy_pairs(tmp_path_factory):
    """Tiny pairs on disk by name."""
    from tests.engine.pairs import disk_pair, lora_pair

    root = tmp_path_factory.mktemp("pairs")
    found = {arch: disk_pair(root / arch, arch) for arch in ("llama", "qwen3")}
    found |= {f"{arch} + LoRA": lora_pair(root / f"{arch}-lora", arch) for arch in ("llama", "qwen3")}
    return {**found, "llama + two LoRAs": lora_pair(root / "two", "llama", ("adapter", "reference_adapter"))}


class ToyEngines:
    """vLLM engines of toy pairs; the last one asked for is kept for the next test that wants the same."""

    def __init__(self, pairs):
        self.pairs, self._key, self._llm, self.starts = pairs, None, None, 0

    def __call__(self, name, own_process=False, **options):
        """own_process: what the engine imports stays there (numba, for ngram drafts, with which vLLM on CPU starts no
        second engine in a process)."""
        key = (name, repr(sorted(options.items())))
        if key != self._key:
            self.close()
            from vllm import LLM

            arguments = self.pairs[name].engine_arguments()
            arguments |= {"worker_extension_cls": "aad_plugin.engine.worker.AADWorkerExtension"}
            with mock.patch.dict(os.environ, {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(own_process))}):
                self._llm, self._key, self.starts = LLM(**{**arguments, **options}), key, self.starts + 1
            assert all(self._llm.collective_rpc("aad_attach"))
        return self._llm

    def close(self):
        self._llm = self._key = None
        gc.collect()


@pytest.fixture(scope="session")
def toy_engines(toy_pairs):
    """Start, or find, the engine of a toy pair with the given options."""
    engines = ToyEngines(toy_pairs)
    yield engines
    print(f"{engines.starts} toy engines were started")
    engines.close()
