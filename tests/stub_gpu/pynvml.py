"""A stand-in for NVML, so that the GPU backend can be driven on a machine without a GPU.

STUB_GPUS says how many there are (1); STUB_NVML_FAILS names a call of NVML that fails, and with which error.
"""

import os

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND, NVML_ERROR_GPU_IS_LOST = 9, 12, 15


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f"NVML error {value}")
        self.value = value


def fail_if_asked(call):
    name, _, value = os.environ.get("STUB_NVML_FAILS", "").partition(" ")
    if name == call:
        raise NVMLError(int(value))


class Memory:
    total = 80 << 30


def nvmlInit():
    fail_if_asked("nvmlInit")


def nvmlShutdown():
    fail_if_asked("nvmlShutdown")


def nvmlSystemGetDriverVersion():
    fail_if_asked("nvmlSystemGetDriverVersion")
    return b"580.00"


def nvmlDeviceGetCount():
    return int(os.environ.get("STUB_GPUS", "1"))


def nvmlDeviceGetHandleByIndex(index):
    fail_if_asked("nvmlDeviceGetHandleByIndex")
    return index


def nvmlDeviceGetCudaComputeCapability(handle):
    return (9, 0)


def nvmlDeviceGetName(handle):
    return b"NVIDIA Stub 100"


def nvmlDeviceGetUUID(handle):
    return f"GPU-stub-{handle}"


def nvmlDeviceGetMemoryInfo(handle):
    return Memory


def nvmlDeviceGetCurrentClocksThrottleReasons(handle):
    return 0x4


def nvmlDeviceGetPowerUsage(handle):
    return 123456


def nvmlDeviceGetClockInfo(handle, kind):
    return {NVML_CLOCK_SM: 1980, NVML_CLOCK_MEM: 3201}[kind]


def nvmlDeviceGetTemperature(handle, sensor):
    return 40


def nvmlDeviceGetComputeRunningProcesses(handle):
    return []
