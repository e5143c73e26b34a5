"""The digit pairs: two 14x14 digits, is the first less than or equal to the second? The task of two student reports.

A network has two outputs: what it compares, (B, 2), and which digits it takes the images for, (B, 2, 10). The loss is
that of report A, section III.A, and report B, equation 1. Importing this file does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from hpo.study.schema import Count, Table, Weight
from hpo.study.task import Metric, Params, Round
from hpo.study.training import Training
from hpo.tasks.datasets import DATASETS, HEAD_PAIRS, VALIDATION_PAIRS, prepare
from hpo.tasks.digit_pairs.architectures import load_activations, load_architecture
from hpo.tasks.digit_pairs.metrics import pair_metrics
from hpo.tasks.digit_pairs.parameters import CONDITIONS, EXAMPLE, RULES

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hpo.tasks.digit_pairs.all_pairs import AllPairs
    from hpo.tasks.digit_pairs.page import NetworkPage
    from hpo.tasks.digit_pairs.pairs import Pairs
    from hpo.training.network_task import Split
    from hpo.training.randomness import EpochNumbers
    from hpo.training.rounds import Rounds
    from hpo.training.updates.config import TrainingConfig


class DigitPairs(Table):
    """Pairs of handwritten digits, and networks that compare them; a `NetworkTask`.

    Attributes:
        rules: what the parameters of its network and loss may be.
        conditions: where some of them are there at all; elsewhere they have no effect.
        example: a configuration to begin with, but for its training.
        train_pairs, test_pairs: pairs that each round draws for itself; by `test_pairs = "all"` a network that is
            trained is measured on all ordered pairs of test images, and on drawn pairs after other epochs alone.
        validation_pairs: that each round draws of images which it does not train on, where it is measured on these;
            1 000 unless given.
        main_weight, auxiliary_weight: of the comparison's loss, and of the digits', in the loss.
        posterior: whether a third error is measured, by which digits the towers take to be how probable.
    """

    dataset: Literal["mnist", "digits"]
    train_pairs: Annotated[int, Field(ge=1)] = 1000
    test_pairs: Annotated[int, Field(ge=1)] | Literal["all"] = 1000
    validation_pairs: Count | None = None
    main_weight: Weight = 1.0
    auxiliary_weight: Weight = 1.0
    posterior: bool | None = None

    rules: ClassVar[Mapping[str, Any]] = RULES
    conditions: ClassVar[Mapping[str, Mapping[str, Any]]] = CONDITIONS
    example: ClassVar[Params] = EXAMPLE
    _folder: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        dataset = DATASETS[self.dataset]
        for kind, asked in (("train_pairs", self.train_pairs), ("test_pairs", self.drawn_test_pairs)):
            if asked > (most := getattr(dataset, kind)):
                raise ValueError(
                    f"{kind} must be at most {most}, all that dataset {self.dataset!r} has, but is {asked}"
                )
        if self.main_weight == 0 and self.auxiliary_weight == 0:
            raise ValueError("main_weight and auxiliary_weight must not both be 0")
        return self

    def check(self, training: Training) -> None:
        """Makes sure that networks can be trained so.

        Raises:
            ValueError: where a batch would be of a single pair.
        """
        if self.train_pairs % training.batch_size == 1:
            raise ValueError(
                f"training.batch_size must not leave one of {self.train_pairs} pairs over (batch norm needs two), "
                f"but is {training.batch_size}"
            )

    @property
    def drawn_test_pairs(self) -> int:
        """How many test pairs each round draws."""
        return DATASETS[self.dataset].drawn_beside_all if self.test_pairs == "all" else self.test_pairs

    @property
    def metrics(self) -> Sequence[Metric]:
        """The errors by each decision."""
        if self.test_pairs == "all":
            resolutions = (100 / DATASETS[self.dataset].test_images ** 2, 100 / HEAD_PAIRS)
        else:
            resolutions = (100 / self.drawn_test_pairs,) * 2
        return pair_metrics("test error", *resolutions, posterior=bool(self.posterior))

    @property
    def validation_metrics(self) -> Sequence[Metric]:
        """The same of pairs that are not the test's."""
        resolutions = (100 / (self.validation_pairs or VALIDATION_PAIRS),) * 2
        return pair_metrics("validation error", *resolutions, posterior=bool(self.posterior))

    @property
    def data_sha256(self) -> str:
        """The hash of the dataset."""
        return DATASETS[self.dataset].sha256

    def untrained(self, params: Params) -> Sequence[str]:
        """Returns the metrics that are read off outputs which no loss trains: their errors are at chance level."""
        by_digits = ["recognition", "posterior"] if self.posterior else ["recognition"]
        weights = zip((["head"], by_digits), self._weights_of(params), strict=True)
        return [name for names, weight in weights if weight == 0 for name in names]

    def prepare(self, folder: Path) -> None:
        """Makes sure that the dataset can be read, downloading it where it is missing, and takes note of its folder.

        Raises:
            DatasetError: where it cannot be had.
        """
        prepare(self.dataset, folder)
        self._folder = folder

    def data(self, round_: Round) -> Split:
        """Draws a round's training and test pairs."""
        from hpo.tasks.digit_pairs.pairs import draw_round
        from hpo.training.network_task import Split

        assert self._folder is not None  # `prepare` was called
        numbers = {"train_pairs": self.train_pairs, "test_pairs": self.drawn_test_pairs}
        return Split(*draw_round(self.dataset, self._folder, round_, **numbers))

    def validation(self, round_: Round) -> Pairs:
        """Draws a round's validation pairs, of training images that it does not train on."""
        from hpo.tasks.digit_pairs.pairs import draw_validation

        assert self._folder is not None
        numbers = {"train_pairs": self.train_pairs, "validation_pairs": self.validation_pairs or VALIDATION_PAIRS}
        return draw_validation(self.dataset, self._folder, round_, **numbers)

    def test_members(self, round_: Round) -> Any:
        """Returns of which test images a round's test pairs are, (N, 2)."""
        from hpo.tasks.digit_pairs.pairs import draw_test_images

        assert self._folder is not None
        return draw_test_images(self.dataset, self._folder, round_, test_pairs=self.drawn_test_pairs)

    def final_test(
        self,
        params: Params,
        rounds: Sequence[Round],
        device: torch.device,
        dtype: torch.dtype,
        *,
        keeps_examples: bool = False,
    ) -> AllPairs | None:
        """Returns what measures trained networks on all ordered pairs of test images, where the study wants that."""
        if self.test_pairs != "all":
            return None
        import torch

        from hpo.tasks.digit_pairs.all_pairs import AllPairs
        from hpo.tasks.digit_pairs.pairs import test_images_on
        from hpo.training.ensembles import size_of
        from hpo.training.network_task import named_in

        assert self._folder is not None
        network = self.network(**named_in(self.network, params))
        scales = torch.tensor([self.normalisation(one) for one in rounds], dtype=dtype, device=device)
        images = test_images_on(self.dataset, self._folder, device, dtype)
        shares = bool(params["weight_sharing"])
        return AllPairs(
            *(images, rounds, scales, network),
            shares_weights=shares,
            keeps_examples=keeps_examples,
            size=size_of(params),
            posterior=bool(self.posterior),
        )

    def network(
        self,
        architecture: str,
        activation: str,
        weight_sharing: bool,
        elu_alpha: float = 1.0,
        width: int | None = None,
        depth: int | None = None,
        dropout: float | None = None,
    ) -> nn.Module:
        """Builds a network of `models/`, as the contract in `models/__init__.py` describes it.

        Args:
            width, depth, dropout: where the architecture takes them; None leaves its own.
        """
        build, make_activation = load_architecture(architecture), load_activations()
        sizes = {"width": width, "depth": depth, "dropout": dropout}
        asked = {name: size for name, size in sizes.items() if size is not None}
        built: nn.Module = build(make_activation(activation, elu_alpha), weight_sharing=weight_sharing, **asked)
        return built

    def loss(
        self,
        output: tuple[Tensor, Tensor],
        batch: Pairs,
        auxiliary_loss: bool,
        auxiliary_share: float | None = None,
        label_smoothing: float | None = None,
    ) -> Tensor:
        """Returns L1, the comparison's cross-entropy; with auxiliary loss its weighted sum with L2 + L3, the digits'.

        Args:
            auxiliary_share: report B's α (equation 1): the loss is (1 - α) L1 + α (L2 + L3); None leaves the weights to
                the study.
            label_smoothing: of all three.
        """
        from hpo.tasks.digit_pairs.losses import pair_loss

        weights = self.weights(auxiliary_share) if auxiliary_loss else (1.0, None)
        return pair_loss(output, batch, weights, label_smoothing or 0.0)

    def weights(self, auxiliary_share: float | None) -> tuple[float, float]:
        """Returns the weights of the comparison's loss and of the digits'."""
        if auxiliary_share is None:
            return self.main_weight, self.auxiliary_weight
        return 1 - auxiliary_share, auxiliary_share

    def errors(self, output: tuple[Tensor, Tensor], batch: Pairs) -> Mapping[str, Tensor]:
        """Returns each pair's error, 0 or 100, by each metric; NaN where a logit that it reads is not finite."""
        from hpo.tasks.digit_pairs.losses import pair_errors

        return pair_errors(output, batch, posterior=bool(self.posterior))

    def average(self, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the mean prediction of M networks, (M, N, ...) each -> (N, ...): of their probabilities."""
        from hpo.training.ensembles import average_logits

        comparison, digits = output
        return average_logits(comparison), average_logits(digits)

    def vary(
        self,
        batch: Pairs,
        numbers: EpochNumbers,
        pairing: str | None = None,
        rotation: float | None = None,
        scale: float | None = None,
        stretch: float | None = None,
        shear: float | None = None,
        shift: float | None = None,
        elastic: float | None = None,
        gamma: float | None = None,
    ) -> Pairs:
        """Returns the training pairs of an epoch: of the same images, which may be paired and augmented anew.

        Args:
            pairing: `every epoch` pairs a round's images anew; a target follows from the labels of both.
            rotation, scale, stretch, shear, shift, elastic, gamma: see `augment`.
        """
        from hpo.tasks.augmentation import augment
        from hpo.tasks.digit_pairs.pairs import pair_anew

        if pairing == "every epoch":
            batch = pair_anew(batch, numbers)
        placed = {"rotation": rotation, "scale": scale, "stretch": stretch, "shear": shear, "shift": shift}
        how = {**placed, "elastic": elastic, "gamma": gamma}
        if not any(how.values()):
            return batch
        images = augment(batch.images.flatten(1, 2).unsqueeze(2), numbers, **how)  # (R, N, 2, …) -> (R, 2 N, 1, …)
        return batch._replace(images=images.view(batch.images.shape))

    def fast_rounds(self, networks: Sequence[nn.Module], params: Params, config: TrainingConfig) -> Rounds | None:
        """Returns rounds of two-tower MLPs on a CPU, in float32; None for other networks."""
        from hpo.tasks.digit_pairs.mlp_rounds import MLPRounds, is_two_tower_mlp

        is_plain = config.precision == "float32" and not params.get("label_smoothing")
        if is_plain and next(networks[0].parameters()).is_cpu and is_two_tower_mlp(networks[0]):
            return MLPRounds(networks, config, self._weights_of(params))
        return None

    def _weights_of(self, params: Params) -> tuple[float, float]:
        """Returns the weights of both losses in a configuration."""
        share: Any = params.get("auxiliary_share")
        return self.weights(share) if params["auxiliary_loss"] else (1.0, 0.0)

    def normalisation(self, round_: Round) -> tuple[float, float]:
        """Returns by what a round's pixels are normalised: mean and deviation of its training pairs' pixels."""
        from hpo.tasks.digit_pairs.pairs import draw_normalisation

        assert self._folder is not None
        return draw_normalisation(self.dataset, self._folder, round_, train_pairs=self.train_pairs)

    def page(self, network: nn.Module) -> NetworkPage:
        """Returns what writes a page to try a network on; see `NetworkPage`."""
        from hpo.tasks.digit_pairs.page import NetworkPage

        return NetworkPage(self, network)
