"""Host batches as the loader makes them, with features in place of pictures."""

import numpy as np

from vitjax.evals import features


def host_batches(x, labels, size, bad=()):
    """Every row once, in batches of `size`; rows `bad` could not be decoded.

    The padding of the last batch is ones, which would be seen if they counted.
    """
    for start in range(0, len(x), size):
        rows = np.arange(start, min(start + size, len(x)))
        pad = (0, size - len(rows))
        is_bad = np.isin(rows, bad)
        batch = {
            "x": np.pad(x[rows], [pad, (0, 0)], constant_values=1),
            "valid": np.pad(~is_bad, pad),
            "index": np.pad(rows, pad).astype(np.int64),
            "bad_index": np.pad(np.where(is_bad, rows, -1), pad, constant_values=-1),
        }
        yield batch | {f: np.pad(y[rows], pad).astype(np.int32) for f, y in labels.items()}


def clusters(n, classes=7, width=13, seed=0, spread=1.5):
    """float32 features around a centre for each class, the same centres for every seed, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return (centres[labels] + spread * rng.normal(size=(n, width))).astype(np.float32), labels


def extractor_of(batches, spec, mesh, tell=features.silent):
    """What an evaluator is given, with the batches' own "x" as features."""
    fields = [name for name in spec if name.startswith("label") or name in "abc"]
    return features.Extract({"features": lambda batch: batch["x"]}, batches, fields, mesh, tell)
