"""Inception score: how sure a classifier is of each made picture, and how much its answers differ between them.

    exp(mean KL(p(class | picture) | p(class))),     in each of ten parts

Higher is better, up to the number of classes. It sees real pictures nowhere: one good picture of each class, copied,
has a perfect score. The score of the real pictures stands beside it. With the network of 2015 the classifier's bias
is left out, as the original code does.

Source: Salimans et al., 2016, Improved techniques for training GANs, section 4.
"""

from typing import Any

import numpy as np
import scipy.special
from jax.sharding import Mesh
from jaxtyping import Float

from vitjax.errors import UserError
from vitjax.evals import Evaluator, features, generated


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'inception_score', of config.samples made pictures in config.parts parts.

    Raises:
      UserError: there would be a part without a picture.
    """
    parts = config.parts
    if parts < 1:
        raise UserError(f"config.evals.{config.name}.parts={parts} must be at least 1; published scores have 10")
    chosen = generated.choice(config, least=parts)

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        sets = chosen.sets(extract, "logits")
        name = extract.network.figure("inception_score")
        mean, std = score(sets.made, parts)
        of_real, _ = score(sets.real.x, min(parts, sets.real.n))
        return sets.summary({name: mean, f"{name}_std": std, f"{name}_of_real": of_real})

    return Evaluator(("generate",), (chosen.split,), evaluate, (chosen.network, "logits"))


def score(logits: Float[np.ndarray, "n K"], parts: int) -> tuple[float, float]:
    """Mean and deviation of the score over `parts` equal parts, in the order of the pictures."""
    n = len(logits)
    scores = [_score(logits[i * n // parts : (i + 1) * n // parts]) for i in range(parts)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: Float[np.ndarray, "n K"]) -> float:
    log_p = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    # Of logs, too: a class of which no probability is left adds 0, not nan.
    log_mean = scipy.special.logsumexp(log_p, axis=0) - np.log(len(log_p))
    return float(np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_mean), axis=-1))))
