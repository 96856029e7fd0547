import jax
import jax.numpy as jnp
import numpy as np

from vitjax.models.classifier import Classifier
from vitjax.models.vit import ViT

BACKBONE = ViT(width=16, depth=1, heads=2, mlp_dim=32, patch_px=4, dtype=jnp.bfloat16)


def test_a_fresh_head_takes_all_classes_for_equally_likely():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    module = Classifier(BACKBONE, 5, head_bias=-2.0)
    out, _ = jax.jit(module.init_with_output)(jax.random.key(0), images)
    np.testing.assert_array_equal(out["logits"], np.full((2, 5), -2.0))


def test_logits_are_a_float32_linear_map_of_the_features():
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    module = Classifier(BACKBONE, 5, head_std=0.1)
    out, variables = jax.jit(module.init_with_output)(jax.random.key(0), images)
    head = variables["params"]["head"]
    assert out["logits"].dtype == jnp.float32
    np.testing.assert_allclose(out["logits"], out["features"] @ head["kernel"] + head["bias"], atol=1e-5)
