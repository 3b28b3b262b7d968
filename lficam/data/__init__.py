"""Data sets, and the statistics that networks for them normalise with: ((mean R, G, B), (std R, G, B)) in [0, 1]."""

CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # LFI-CAM's numbers, for STL-10 too
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
