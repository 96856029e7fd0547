"""CLIP's vision transformer: `vit` with a norm before the first block and patches without a bias.

Source: Radford et al., 2021, Learning Transferable Visual Models From Natural Language Supervision, section 2.4;
the authors' repository, clip/model.py.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vitjax.models import vit


def make(config: Any, dtype: Any = jnp.float32) -> vit.ViT:
    """The backbone that `config.model` describes, by the same settings as `vit`.

    OpenAI's weights have activation='quick_gelu' and norm_eps=1e-5; with another activation they compute
    something else, and nothing fails.

    Raises:
      UserError: a setting that is not among the choices, or widths that do not fit together.
    """
    embedding_init = nn.initializers.normal(config.width**-0.5)  # of class token and positions
    return vit.make(config, dtype).clone(pre_norm=True, patch_bias=False, embedding_init=embedding_init)
