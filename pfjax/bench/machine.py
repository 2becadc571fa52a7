"""Where a measurement was made."""

import datetime
import os
import platform

import jax


def machine() -> dict:
    """Device, platform, number of devices, cores of this process, load, versions and date.

    `load` is the average of the last minute, of all processes; None where there is no such figure.
    """
    device = jax.devices()[0]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": len(jax.devices()),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }
