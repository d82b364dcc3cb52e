"""How long a run takes, and what that costs: measured, or from the hardware's figures (no torch)."""

from dataclasses import dataclass

from foretell.models.config import ModelConfig
from foretell.models.counts import flops_per_token, parameter_count
from foretell.planning.hardware import Hardware, Precision

ACCUMULATE_BYTES, UPDATE_BYTES = 14, 52  # moved for each parameter: after a backward pass in bf16; clip, AdamW, copy, zero
BANDWIDTH_SHARE = 0.7  # of the memory's speed that long vectors reach


@dataclass(frozen=True)
class Speed:
    """Seconds of one device. micro_seconds: forward and backward of a whole micro-batch; update_seconds: what follows the last."""

    micro_seconds: float
    update_seconds: float
    source: str
    """Where the numbers are from."""

    def step_seconds(self, rows: int, micro_batch: int, devices: int = 1) -> float:
        """One optimizer step over `rows` windows, dealt to the devices as evenly as they can be."""
        mine = -(-rows // devices)
        whole, rest = divmod(mine, micro_batch)
        return (whole + rest / micro_batch) * self.micro_seconds + self.update_seconds


def predicted_speed(config: ModelConfig, hardware: Hardware, precision: Precision, micro_batch: int, shards: int = 1) -> Speed:
    """From the hardware's peak and its expected share; memory moved by the optimizer over its bandwidth."""
    rate, parameters = hardware.expected_flops(precision, config.d_model), parameter_count(config)
    moved = ACCUMULATE_BYTES if precision == "bf16" else 0
    bandwidth = BANDWIDTH_SHARE * hardware.bandwidth
    work = micro_batch * config.context_length * flops_per_token(config)
    share, peak = hardware.expected_share(config.d_model), rate / hardware.expected_share(config.d_model)
    source = (
        f"{share:.0%} of {peak / 1e12:.3g} TFLOP/s in {precision}, {'a guess for each core' if hardware.guessed else 'expected'}"
    )
    return Speed(work / rate + moved * parameters / bandwidth, UPDATE_BYTES * parameters / bandwidth / shards, source)
