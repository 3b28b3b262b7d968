"""Deterministic parameters keyed by name, for the golden files whose weights are not stored."""

import zlib

import numpy as np
import torch


def fill_(state_dict):
    """Fill every tensor of a state dict in place from numpy's frozen legacy stream, seeded by the tensor's name."""
    for name, tensor in state_dict.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
        if name.endswith("num_batches_tracked"):
            value = np.zeros(tensor.shape)
        elif name.endswith("running_var"):
            value = 1 + 0.5 * rng.random_sample(tensor.shape)
        elif name.endswith("running_mean"):
            value = 0.1 * rng.standard_normal(tensor.shape)
        elif tensor.dim() == 4:
            value = rng.standard_normal(tensor.shape) * np.sqrt(
                2.0 / (tensor.shape[0] * tensor.shape[2] * tensor.shape[3])
            )
        elif tensor.dim() == 2:
            value = rng.standard_normal(tensor.shape) / np.sqrt(tensor.shape[1])
        elif name.endswith("weight"):
            value = 1 + 0.1 * rng.standard_normal(tensor.shape)
        else:
            value = 0.1 * rng.standard_normal(tensor.shape)
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(np.asarray(value, dtype=np.float32)))
        else:
            tensor.zero_()
