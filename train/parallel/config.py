"""[parallel]: how a run is laid out over devices."""

from dataclasses import dataclass

from jaxllm.utils.validate import Positive, check_fields


@dataclass(frozen=True)
class ParallelConfig:
    """[parallel]: the axes of the mesh of devices. Their product is the number of devices."""

    data: Positive | None = None  # copies of the model, each with its part of a batch; none: as many as fit
    fsdp: Positive = 1  # parts that parameters and optimizer are cut into, each with its part of a batch too
    context: Positive = 1  # parts that the positions of each row are cut into
    tensor: Positive = 1  # parts that the heads and the hidden features of the MLP are cut into

    def __post_init__(self) -> None:
        check_fields(self, "parallel.")
