"""CLIP on drawings with short captions, few thousands of them: emoji of two makers in tar files of img2dataset.

Command:   python tools/train_tokenizer.py "EMOJI/*/{000000,000001}.tar" --vocab_size=1024 --out=emoji_tokens.json
           python -m vitjax.main --config=configs/emoji_clip.py --config.data.tokenizer=hf:emoji_tokens.json \
               --config.data.path="EMOJI/*/{000000,000001}.tar" --workdir=runs/emoji_clip
           python -m vitjax.evaluate --workdir=runs/emoji_clip --config.data.path=EMOJI/google/000002.tar
           EMOJI holds google/ and twitter/; 000002.tar of both have the 190 concepts that are held out. The first
           evaluation, in training, is of the training pictures themselves. To learn from one maker alone and be asked
           about the other: --config.data.path="EMOJI/google/{000000,000001}.tar", then evaluate on
           "EMOJI/twitter/{000000,000001}.tar".
Hardware:  2 CPU cores
Expected:  of the 190, by chance 0.5% at R@1 and 2.6% at R@5; ridge regression from pixels to words gives R@5 of 15.3%
           from pictures to texts and 28.4% from texts to pictures
Obtained:  of the 190, by Google / Twitter: pictures to texts R@1 10.0 / 12.1, R@5 24.2 / 25.8; texts to pictures R@1
           15.3 / 13.7, R@5 24.7 / 23.7, below the ridge regression's: two thirds of these captions have a word that no
           other has, and the 3,442 pairs are known by heart. Google's drawings find Twitter's: R@1 67.4, R@5 82.1
           (16 x 16 pixels: 45.3, 65.3). 35 minutes beside another run, 26 CPU minutes.
           Of Google's alone (700 steps), Twitter's 1,721 drawings of known concepts: pictures to texts R@1 34.6, R@5
           53.6, texts to pictures 37.1, 57.4; by chance 0.06, 0.3. The caption of the nearest of Google's drawings by
           pixels is right for 39.9, so this is no more than copying
"""

from vitjax.config import base_config, form, retrieval_eval, view


def get_config(arg=""):
    c = base_config()
    c.batch_size = 256
    c.total_steps = 1500

    c.data.fields = ("text",)
    c.data.text_length = 20
    c.data.size_px = 64
    c.data.canvas_px = 64
    c.data.eval_crop_fraction = 1.0
    c.data.mean = c.data.std = (0.5, 0.5, 0.5)
    # No flips: arrows, hands and flags have a left and a right. Hue stays: captions name colours.
    c.augment.views.drawing = view(
        crop_area=(0.5, 1.0), flip=0.0, jitter=0.8, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.02
    )

    c.model.name = "resnet"
    c.model.update(dict(depth=18, width=32, stem="imagenet", zero_init_residual=True))
    # Id 2 ends a text of tools/train_tokenizer.py, as of bytes.
    c.text = dict(width=128, depth=2, heads=4, mlp_dim=512, vocab_size=0, causal=True, pool="eos", eos_id=2)
    c.text.update(dict(norm_eps=1e-6, activation="gelu", inits="clip", scan=False, remat=False, attention="xla"))
    c.towers = dict(embed_dim=128, image_projection="linear", text_projection="linear", scale=1 / 0.07, bias=None)
    c.objective.name = "clip"
    # Captions repeat, to which a softmax gives equal shares by itself: multi_positive would change nothing.
    c.objective.update(dict(max_scale=100.0, multi_positive=False))

    c.optim.base_lr, c.optim.base_batch = 1e-3, 256
    c.optim.warmup_steps = 100
    c.optim.weight_decay = 0.2
    c.optim.b2 = 0.98
    c.optim.clip_norm = 1.0

    c.checkpoint.every_steps = 500
    c.evals.retrieval = retrieval_eval(eval_split="train")
    return form(c, arg)
