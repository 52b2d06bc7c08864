"""What makes each method tiny, and what it learns from in the tests of learning: overrides of the recipe `demo`."""

from __future__ import annotations

# on top of tiny_recipe.TINY: a run takes seconds
TINY: dict[str, list[str]] = {
    "simclr": [],
    "supervised": [],
    "rotation": [],
    "amdim": [],
    "autoencoder": ["method.width=8"],
    "cpc": ["augmentation.image_size=32", "method.context_width=16", "method.target_dim=8"],
    "dim": ["method.units=32", "method.global_dim=8", "method.prior_weight=0.1"],
    "relative_patch": [
        *("augmentation.image_size=32", "method.crop=30", "method.jitter=2"),
        *("method.embedding_dim=16", "method.hidden_dim=32"),
    ],
    "moco": ["method.queue=64", "method.norm_group=4", "method.key_momentum=0.9", "method.output_dim=16"],
    # the hinge of small scores gives D's last bias no gradient but rounding, which two processes do otherwise
    "bigan": ["method.width=4", "method.latent_dim=8", "method.loss=logistic"],
    "jigsaw": [
        *("augmentation.image_size=32", "method.crop=30", "method.jitter=2", "method.permutations=20"),
        *("method.per_image=4", "method.embedding_dim=16", "method.hidden_dim=32"),
    ],
    "instdist": ["method.negatives=64", "method.output_dim=16", "method.proximal=0.1"],
    "colorization": ["data.name=places", "method.hidden_dim=16"],
    "cmc": ["data.name=places", "method.negatives=64", "method.output_dim=16", "encoder.width=0.25"],
    "pirl": ["augmentation.image_size=28", "method.negatives=64", "method.output_dim=16", "method.objective=nce"],
    "exemplar": ["method.views=3", "method.output_dim=16"],
}

# on top of LEARNING: its task is learnt, and kNN on h beats the encoder that it began with
LEARNS: dict[str, list[str]] = {
    "simclr": ["training.epochs=3"],
    "supervised": [],
    "rotation": [],
    "amdim": [],
    "autoencoder": ["method.width=16"],
    "cpc": [
        *("augmentation.image_size=32", "method.stride=6", "method.offsets=[2]", "method.context_width=64"),
        *("encoder.stem=imagenet", "optimizer.learning_rate=0.001", "training.epochs=3"),
    ],
    "dim": ["method.units=256"],
    "relative_patch": [
        *("augmentation.image_size=68", "augmentation.min_scale=1", "method.crop=60", "method.jitter=4"),
        *("method.embedding_dim=64", "method.hidden_dim=256", "encoder.stem=imagenet", "training.epochs=8"),
    ],
    "moco": ["method.queue=1024", "method.key_momentum=0.95", "method.temperature=0.1", "method.output_dim=64"],
    "bigan": [
        *("method.width=16", "method.latent_dim=64", "optimizer.learning_rate=0.0004", "optimizer.beta1=0.5"),
        *("training.warmup_epochs=0", "training.epochs=10"),
    ],
    "jigsaw": [
        *("augmentation.image_size=68", "augmentation.min_scale=1", "method.crop=60", "method.jitter=4"),
        *("method.embedding_dim=64", "method.hidden_dim=256", "encoder.stem=imagenet", "training.epochs=8"),
    ],
    "instdist": [
        *("method.loss=softmax", "method.negatives=0", "method.temperature=0.1"),
        *("augmentation.gray_first=false", "augmentation.flip_prob=0"),
        *("data.limit=1000", "training.epochs=16", "optimizer.learning_rate=0.001"),  # rows lag an epoch behind
    ],
    "colorization": ["data.name=places", "augmentation.image_size=32", "method.hidden_dim=64"],
    "cmc": [
        *("data.name=places", "augmentation.image_size=32", "method.output_dim=64", "encoder.width=0.25"),
        *("method.loss=softmax", "method.negatives=0", "method.temperature=0.1"),
        *("data.limit=1000", "training.epochs=16", "optimizer.learning_rate=0.001"),  # rows lag an epoch behind
    ],
    "pirl": [
        *("method.negatives=1000", "method.temperature=0.1", "augmentation.flip_prob=0"),
        *("data.limit=1000", "training.epochs=16", "optimizer.learning_rate=0.001"),
    ],
    "exemplar": ["method.views=4", "method.output_dim=64", "training.batch_size=64", "training.epochs=2"],
}
LEARNING = [
    "data.limit=4000",
    "augmentation.image_size=28",
    "augmentation.min_scale=0.5",
    "encoder.stem=cifar",
    "encoder.width=0.125",
    "head.output_dim=64",
    "optimizer.name=adam",
    "optimizer.learning_rate=0.002",
    "optimizer.learning_rate_scaling=none",
    "training.batch_size=128",
    "training.epochs=4",
    "training.warmup_epochs=0.5",
    "monitor.knn_every_epochs=0",
]
