"""A stand-in for NVML with one GPU, so that the GPU backend can be driven on a machine without one."""

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0


class Memory:
    total = 80 << 30


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlSystemGetDriverVersion():
    return b"580.00"


def nvmlDeviceGetCount():
    return 1


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetCudaComputeCapability(handle):
    return (9, 0)


def nvmlDeviceGetName(handle):
    return b"NVIDIA Stub 100"


def nvmlDeviceGetUUID(handle):
    return "GPU-stub"


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
