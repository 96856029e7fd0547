"""Pictures of a trained generator, and the batch statistics that it needs for them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key, UInt8

from vitjax import augment, latent
from vitjax.errors import UserError
from vitjax.models import layers

LINES = 4  # of fixed latents in the picture of a run's progress
MEAN = STD = (0.5, 0.5, 0.5)  # pictures are made in -1..1

Pictures = UInt8[Array, "B S S 3"]


class Sampler(NamedTuple):
    """Makes pictures. `variables` are the generator's own, in evaluation; see `standing_statistics`.

    Attributes:
      generator: (latents, classes, train) -> pictures in -1..1.
      truncation: of the latents; 0 is none.
      passes, batch: of the standing statistics.
    """

    generator: nn.Module
    z_dim: int
    num_classes: int
    truncation: float
    passes: int
    batch: int

    def checked(self) -> "Sampler":
        """Itself.

        Raises:
          UserError: the number of latents, passes or pictures makes no sense.
        """
        if self.z_dim < 1:
            raise UserError(
                f"config.objective.z_dim={self.z_dim} must be at least 1; DCGAN has 100, BigGAN 120"
            )
        if self.passes < 0 or self.batch < 2:
            raise UserError(
                f"config.objective.standing_passes={self.passes} and standing_batch={self.batch} must be at least "
                "0 and 2; without passes the moving averages of training are used"
            )
        return self

    def generate(self, variables: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Pictures:
        """A picture for each of the batch's rows, of whose contents only the number counts ('row').

        'latent' [B, Z] and 'latent_class' [B] in the batch are used instead of draws.
        """
        rows = batch["row"]
        z = batch["latent"] if "latent" in batch else latent.draw(key, rows, self.z_dim, self.truncation)
        drawn = "latent_class" not in batch
        y = latent.draw_classes(key, rows, self.num_classes) if drawn else batch["latent_class"]
        return augment.to_uint8(self.generator.apply(variables, z, y), MEAN, STD)

    def lines(self, variables: Any, rows: Int[Array, " B"], key: Key[Array, ""]) -> dict[str, Pictures]:
        """Lines of pictures of latents that depend on rows and key alone, and a way between two of them.

        A line of a generator that knows classes is of one class.
        """
        keys = [jax.random.fold_in(key, i) for i in range(LINES)]
        latents = [latent.draw(k, rows, self.z_dim, self.truncation) for k in keys]
        ends = (jnp.broadcast_to(latents[0][i], latents[0].shape) for i in (0, -1))
        lines = {f"sample_{i}": (z, i % self.num_classes) for i, z in enumerate(latents)}
        lines["interpolation"] = latent.between(*ends, jnp.linspace(0, 1, len(rows))), 0
        # All in one batch: the generator is compiled once.
        z = jnp.concatenate([z for z, _ in lines.values()])
        y = jnp.repeat(jnp.asarray([y for _, y in lines.values()]), len(rows))
        made = self.generate(variables, {"row": jnp.arange(len(y)), "latent": z, "latent_class": y}, key)
        return dict(zip(lines, jnp.split(made, len(lines))))

    def standing_statistics(self) -> Callable[[Any, Key[Array, ""]], Any]:
        """(variables, key) -> the generator's collection 'batch_stats' as these weights have it now.

        A moving average belongs to the weights of the past, and an average of weights has none of its own. These are
        the means over `passes` batches of `batch` pictures, with the truncation that will be sampled with. A pass is
        compiled, their loop is not: inside of a compiled loop XLA has no fast convolutions on CPUs.

        Source: Brock et al., 2019, Large scale GAN training, appendix C.
        """
        rows = jnp.arange(self.batch)

        @jax.jit
        def add(total: Any, variables: Any, key: Key[Array, ""]) -> Any:
            z = latent.draw(key, rows, self.z_dim, self.truncation)
            y = latent.draw_classes(key, rows, self.num_classes)
            own = {**variables, "batch_stats": jax.tree.map(jnp.zeros_like, total)}
            _, moved = self.generator.apply(own, z, y, train=True, mutable=["batch_stats", "spectral"])
            # A running average that starts from nothing holds 1 - momentum of one batch's statistics.
            mean = jax.tree.map(lambda x: x / (self.passes * (1 - layers.MOMENTUM)), moved["batch_stats"])
            return jax.tree.map(jnp.add, total, mean)

        def found(variables: Any, key: Key[Array, ""]) -> Any:
            total = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
            for i in range(self.passes):
                total = add(total, variables, jax.random.fold_in(key, i))
            return {"batch_stats": total}

        return found
