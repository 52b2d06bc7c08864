"""The demo recipe made tiny."""

# A network of 8 to 64 channels on 256 embedded images: a run takes seconds.
TINY = [
    "data.limit=256",
    "augmentation.image_size=16",
    "encoder.stem=cifar",
    "encoder.width=0.125",
    "head.output_dim=16",
    "loss.temperature=0.5",
    "training.batch_size=32",
    "training.epochs=1",
    "training.warmup_epochs=0.5",
    "monitor.log_every_steps=1",
    "monitor.knn_every_epochs=0",
]
