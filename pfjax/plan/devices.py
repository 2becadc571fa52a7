"""Accelerators that can be planned for: memory, bandwidth and peak arithmetic of one chip.

Public vendor figures, dense (no sparsity). NVIDIA: the data sheets of A100 (SXM), H100 (SXM) and H200.
Google: docs.cloud.google.com/tpu/docs, pages v4, v5e, v5p and v6e, read 2026; where two editions
differ (800 or 819 GB/s for v5e) the larger figure is taken; int8 of v5p is from its announcement. A GB is
read as 10^9 bytes throughout, the smaller of its two meanings. Knows nothing of models.
"""

from typing import NamedTuple

RESERVE = 0.06


class Device(NamedTuple):
    """One chip; `link` is what it sends to its neighbours, in one direction.

    Bytes, bytes per second, and operations per second of bfloat16 and int8 (float8 where the
    vendor names that) matrix products. A model axis is tried over up to `group` devices.
    """

    name: str
    hbm_bytes: int
    bandwidth: float
    peak_bf16: float
    peak_int8: float
    link: float
    group: int

    @property
    def reserve(self) -> int:
        """Bytes left to the runtime, compiled programs and fragmentation: 6 % of the memory."""
        return round(RESERVE * self.hbm_bytes)


_TABLE = (
    Device("H100", 80 * 10**9, 3.35e12, 989e12, 1979e12, 450e9, 8),
    Device("H200", 141 * 10**9, 4.8e12, 989e12, 1979e12, 450e9, 8),
    Device("A100-40GB", 40 * 10**9, 1.555e12, 312e12, 624e12, 300e9, 8),
    Device("A100-80GB", 80 * 10**9, 2.039e12, 312e12, 624e12, 300e9, 8),
    Device("v4", 32 * 10**9, 1.2e12, 275e12, 275e12, 300e9, 64),
    Device("v5e", 16 * 10**9, 0.819e12, 197e12, 393e12, 200e9, 64),
    Device("v5p", 95 * 10**9, 2.765e12, 459e12, 918e12, 600e9, 64),
    Device("v6e", 32 * 10**9, 1.64e12, 918e12, 1836e12, 400e9, 64),
)
DEVICES = {device.name: device for device in _TABLE}
_ALIASES = {"a100": "a100-80gb", "v5litepod": "v5e"}


def find(name: str) -> Device:
    """A device by name, in any case; ValueError for one that is not in the table.

    >>> find("a100").hbm_bytes, find("TPU-v5e").name
    (80000000000, 'v5e')
    """
    key = name.lower().removeprefix("tpu").strip(" -")
    key = _ALIASES.get(key, key)
    for device in _TABLE:
        if device.name.lower() == key:
            return device
    raise ValueError(f"device is {name!r}, wanted one of {', '.join(DEVICES)}.")
