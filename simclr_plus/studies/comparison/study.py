"""The comparison of all methods, on a budget of equal pixels through f, or of equal epochs."""

from __future__ import annotations

from collections.abc import Iterator

from simclr_plus.recipe.method_keys.color import GRAY_SETS
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.comparison.page import page
from simclr_plus.studies.comparison.plan import BUDGETS, NEED_COLOR, points
from simclr_plus.studies.study import PAPER, SMALL, Point, Study

# maps that have places; images so few that memory banks, which lag an epoch, are not all of the story
_SMALL = ("encoder.stem=cifar", "encoder.width=0.125", "data.limit=4000", "training.epochs=5")


# LARS is SimCLR's alone; SGD at 0.1 for 256 images is what published comparisons with one ResNet-50 have
_PAPER = (
    "training.epochs=100",
    "training.batch_size=1024",
    "augmentation.resize=bicubic",
    "optimizer.name=sgd",
    "optimizer.learning_rate=0.1",
    "optimizer.weight_decay=1e-4",
)


def _comparison(budget: str) -> Study:
    def of_budget(recipe: Recipe, scale: str) -> Iterator[Point]:
        return points(recipe, scale, budget)

    return Study(
        name="comparison" if budget == BUDGETS[0] else f"comparison-{budget}",
        title=f"All methods on one footing, equal {'pixels through f' if budget == BUDGETS[0] else budget}",
        source="the methods that SimCLR is compared with: Chen et al. 2020, Table 6 and section 7",
        question="With the same network, images, budget, seeds and evaluators, which method gives the best features?",
        points=of_budget,
        page=page,
        tuned="rate",
        seeds={SMALL: 3, PAPER: 1},
        bases={SMALL: ("study", _SMALL), PAPER: ("r50_1x", _PAPER)},
        choices=(
            "budget: a method trains for 2 epochs over its pixels through f an image, so that all see as many pixels "
            "as SimCLR's two views; with `--budget epochs` all train as many epochs",
            "optimizer, warm-up, schedule and batch size are the recipe's for all but exemplar, whose batch at small "
            "scale is 32 images of 8 views; the rate is the best of a third, once and three times the recipe's on a "
            "held-out tenth of the training images, chosen by the first seed",
            "a method with its own optimizer has the update rule, rate and decay of the method's recipe for ImageNet",
            "views and encoder input are each method's published law; at small scale none has blur, crops whose size a "
            "method shares with SimCLR's are the recipe's, patches fit 32 pixels, banks and queues fit 4,000 images "
            "(InstDist and CMC: softmax over the whole bank); with augmentation.law=simclr all have the recipe's views",
            "evaluation shows images at the side that a method trains on: 292 pixels for relative_patch and jigsaw at "
            "the paper's scale, 224 for the others",
            "1 % and 10 % of the labels: at small scale linear classifiers on frozen features, at the paper's "
            "fine-tuning",
            f"{' and '.join(NEED_COLOR)} need color and are left out on {', '.join(GRAY_SETS)}; `study comparison "
            "data.name=places` has them",
            "supervised training sees labels; its row is linear accuracy on h as of the others",
        ),
    )


STUDIES = tuple(map(_comparison, BUDGETS))
