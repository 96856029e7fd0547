"""Top-1 accuracy of the model's own classifier."""

from typing import Any

from jax.sharding import Mesh

from vitjax.evals import Evaluator, features


def make(config: Any, run: Any) -> Evaluator:
    """The evaluator 'accuracy': the largest logit against the label `config.fields` on config.eval_split.

    Raises:
      UserError: a field that the data set does not have.
    """
    fields = features.chosen_fields(config, run)
    eval_split, eval_examples = config.eval_split, config.eval_examples

    def evaluate(extract: features.Extract, mesh: Mesh) -> dict[str, float]:
        test = extract("logits", eval_split, eval_examples, fields)
        predicted = test.x.argmax(-1)
        return features.summary({field: predicted == test.labels[field] for field in fields}, test)

    return Evaluator(("logits",), (eval_split,), evaluate)
