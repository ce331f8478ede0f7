"""Toy models are so small that more than one thread only waits for the others."""

import torch

torch.set_num_threads(1)
