"""SimCLR on some thousands of photos of your own, without labels, on a computer without an accelerator.

Command:   python -m vitjax.main --config=configs/photos_simclr.py --config.data.path=PHOTOS --workdir=runs/photos
           PHOTOS is a tree of pictures; where folders named train and test hold one folder a class, nearest neighbours
           say in the end what was learned. Without labels: --config.evals.knn.every_steps=-1
Hardware:  2 CPU cores, 2,000 photos
Expected:  more than nearest neighbours on pixels
Obtained:  1,980 photos of clothing, 372 for the test: kNN 45.4%, 23.7% at initialisation, 40.1% of pixels; 12 minutes
"""

from vitjax import policies, published_heads
from vitjax.config import base_config, form, knn_eval


def get_config(arg=""):
    c = base_config()
    c.batch_size = 128
    c.total_epochs = 120.0

    c.data.size_px = 64
    c.data.eval_crop_fraction = 1.0
    # Colours at full strength, which else are a short cut, but large crops and no blur: few pictures, a short run.
    c.augment.views = policies.simclr(blur=0.0)
    c.augment.views.view.crop_area = (0.2, 1.0)

    c.model.name = "resnet"
    c.model.update(dict(depth=18, width=16, stem="imagenet", zero_init_residual=True))
    c.objective.name = "simclr"
    c.objective.temperature = 0.2
    c.objective.projector = published_heads.cifar_simclr_projector()
    c.objective.projector.widths = (512, 128)

    c.optim.name = "adamw"
    c.optim.base_lr, c.optim.base_batch = 4e-3, 256
    c.optim.warmup_epochs = 5.0
    c.optim.weight_decay = 1e-4

    c.checkpoint.every_steps = 500
    c.evals.knn = knn_eval()
    return form(c, arg)
