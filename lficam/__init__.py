"""Trainable visual explanations of image classifiers: LFI-CAM, ABN, L-CAM, TAME, T-TAME."""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "attach": "explainers.learned",
    "baseline": "explainers.registry",
    "create": "models.registry",
    "explore": "lab.explore.explorer",
    "images": "data.arrays",
    "load": "explainers.load",
    "load_authors": "models.checkpoints",
    "score": "metrics.scoring",
    "InputError": "errors",
}
__all__ = ["InputError", "attach", "baseline", "create", "explore", "images", "load", "load_authors", "score"]


def __getattr__(name: str) -> object:
    """Import on first use, so that `lficam --help` does not wait for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'lficam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
