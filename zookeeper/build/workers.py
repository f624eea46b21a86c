"""Who trains the cohorts of a plan, where and with what: a value, checked before anything is written."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from zookeeper.errors import InputError

BACKENDS = ("auto", "local", "ray")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Workers:
    """Who trains the cohorts. Changes how fast a zoo is built, never which models it holds.

    The bits of the weights may depend on ``device`` and ``num_threads`` (rounding), on nothing else here.

    Parameters
    ----------
    num_workers
        Ray workers at a time; a local build has one.
    backend
        ``ray``, ``local`` (in this process), or ``auto``: local for one worker on this machine or where Ray
        is not installed, else Ray.
    device
        ``cpu``, ``cuda``, or ``auto``: cuda if this process sees a GPU.
    num_threads
        Threads of torch in one worker.
    num_cpus, num_gpus
        What Ray reserves for one worker. A fraction of a GPU lets workers share it; None shares this
        machine's GPUs evenly (on another cluster: a whole one each), none if the device is cpu.
    address
        An existing Ray cluster, whose nodes all reach the zoo directory; None starts one on this machine.
    max_retries
        How often a cohort whose worker died is tried again.

    Raises
    ------
    InputError
        If the values contradict each other.

    Examples
    --------
    >>> Workers(num_workers=2, device="cpu").resolve().num_gpus
    0.0
    """

    num_workers: int = 1
    backend: str = "auto"
    device: str = "cpu"
    num_threads: int = 1
    num_cpus: float = 1.0
    num_gpus: float | None = None
    address: str | None = None
    max_retries: int = 3

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise InputError(f"workers: unknown backend {self.backend!r}; expected {', '.join(BACKENDS)}.")
        if self.device not in DEVICES:
            raise InputError(f"workers: unknown device {self.device!r}; expected {', '.join(DEVICES)}.")
        for name, value, least in (
            ("num_workers", self.num_workers, 1),
            ("num_threads", self.num_threads, 1),
            ("max_retries", self.max_retries, 0),
        ):
            if value < least:
                raise InputError(f"workers: {name} is out of range; expected at least {least}, got {value}.")
        if not self.num_cpus > 0 or not math.isfinite(self.num_cpus):
            raise InputError(f"workers: num_cpus is out of range; expected more than 0, got {self.num_cpus}.")
        gpus = 0.0 if self.num_gpus is None else self.num_gpus
        if not gpus >= 0 or not math.isfinite(gpus) or (gpus > 1 and gpus != int(gpus)):
            raise InputError(f"workers: num_gpus must be a fraction up to 1, or a whole number, got {gpus:g}.")
        if gpus > 0 and self.device == "cpu":
            raise InputError(f"workers: {gpus:g} GPUs for a worker on the cpu. Choose device cuda, or no GPUs.")
        if self.backend == "local" and (self.address is not None or self.num_workers > 1):
            wanted = f"{self.num_workers} workers" if self.address is None else f"the cluster {self.address}"
            raise InputError(f"workers: a local build cannot use {wanted}. Choose one: local, or Ray workers.")

    def resolve(self) -> Workers:
        """Settle every ``auto``; what a build on this machine needs is checked to be there.

        Raises
        ------
        InputError
            If the device is absent, or Ray is wanted and not installed.
        """
        has_ray = importlib.util.find_spec("ray") is not None
        backend = self.backend
        if backend == "auto":
            wants_ray = self.num_workers > 1 or self.address is not None
            backend = "ray" if wants_ray and (has_ray or self.address is not None) else "local"
        if backend == "ray" and not has_ray:
            raise InputError("ray is not installed. Install it with pip install 'ray[tune]', or build with --local.")
        device = self.device if self.address is not None and self.device != "auto" else resolve_device(self.device)
        num_gpus = self.num_gpus
        if num_gpus is None:
            num_gpus = self._gpu_share() if device == "cuda" else 0.0
        return Workers(
            num_workers=1 if backend == "local" else self.num_workers,
            backend=backend,
            device=device,
            num_threads=self.num_threads,
            num_cpus=self.num_cpus,
            num_gpus=num_gpus if device == "cuda" else 0.0,
            address=self.address,
            max_retries=self.max_retries,
        )

    def _gpu_share(self) -> float:
        if self.address is not None:
            return 1.0
        import torch

        # Ray counts in steps of 1e-4: a third of a GPU three times must not exceed it
        return min(1.0, math.floor(1e4 * torch.cuda.device_count() / self.num_workers) / 1e4)


def resolve_device(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for a device name, ``auto`` included.

    >>> resolve_device("cpu")
    'cpu'

    Raises
    ------
    InputError
        If the name is unknown or the device absent.
    """
    if name not in DEVICES:
        raise InputError(f"device: unknown device {name!r}; expected {', '.join(DEVICES)}.")
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "auto":
        return "cpu"
    raise InputError("device: this process sees no GPU for cuda. Use --device cpu, or install a torch with CUDA.")
