"""Zero-shot classification: a picture's class is the one whose prompts are nearest to it, and nothing is trained.

Ties count against the model: a class that scores as high as the right one stands before it. So two classes of one
name cannot be told apart and both are wrong, and a model that says the same of all scores nothing rather than 1 / K.
"""

from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from vitjax.evals import Evaluator, features, prompts
from vitjax.vectors import normalised

SCORES = 2**24  # alive at a time


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'zero_shot': top-1 and, with more than five classes, top-5 accuracy on config.eval_split.

    The result names the prompts: 'prompts/<templates>-<digest>' is their number, and the digest stands for all of them
    with the names in place. `predict` must have 'image_embed', and 'text_embed' for a batch
    {'text': int32 [B, L], ...}.

    Raises:
      UserError: a field that the data set does not have, or a file of names or templates that does not fit.
    """
    fields = features.chosen_fields(config, run)
    eval_split, eval_examples = config.eval_split, config.eval_examples
    setting = f"config.evals.{config.name}"
    templates = prompts.templates_of(config, setting)
    names, file = {field: tuple(run.class_names[field]) for field in fields}, config.classes
    if file:
        names = {field: prompts.read_names(file, f"{setting}.classes", len(names[field])) for field in fields}
    texts = {field: templates.prompts(names[field]) for field in fields}
    every = [text for field in fields for text in texts[field]]

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        test = extract("image_embed", eval_split, eval_examples, fields)
        place = {}
        for field in fields:
            tokens = np.stack([extract.tokenizer.encode(text) for text in texts[field]])
            vectors = prompts.class_vectors(extract.texts(tokens), len(names[field]))
            place[field] = places(test.x, vectors, test.labels[field])
        correct = {field: place[field] < 1 for field in fields}
        top5 = {field: float(np.mean(place[field] < 5)) for field in fields if len(names[field]) > 5}
        numbers = features.summary(
            correct, test, {"top5_accuracy": top5} if len(top5) == len(fields) else None
        )
        return numbers | {f"prompts/{templates.name}-{prompts.digest(every)}": len(every)}

    return Evaluator(("image_embed", "text_embed"), (eval_split,), evaluate)


def places(
    x: Float[np.ndarray, "n E"], vectors: Float[np.ndarray, "K E"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """How many other classes score at least as high as the right one, for each picture: 0 is right."""
    step = max(1, SCORES // len(vectors))
    found = []
    for start in range(0, len(x), step):
        scores = np.asarray(normalised(x[start : start + step])) @ vectors.T
        right = np.take_along_axis(scores, labels[start : start + step, None], 1)
        found.append((scores >= right).sum(1) - 1)
    return np.concatenate(found)
