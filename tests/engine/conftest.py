"""The toy tasks of the harness tests, and one engine with the demo pair for all tests that want real text."""

import os

import pytest
import torch

from tests.harness.conftest import task_folder

__all__ = ["demo_model", "task_folder"]

ENGINE = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 32}
if torch.cuda.is_available():
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    ENGINE |= {"kv_cache_memory_bytes": 2**31, "gpu_memory_utilization": 0.2}


@pytest.fixture(scope="session")
def demo_model():
    """The demo pair as ``--model aad-vllm``, float32."""
    from aad_plugin.harness.vllm_model import AADVLLM

    return AADVLLM(pair="demo", **ENGINE)
