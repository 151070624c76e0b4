from falqon_core.estimate.devices import DEVICES, reported_device


def test_a_peak_is_told_only_of_devices_that_are_known_exactly() -> None:
    device = reported_device("NVIDIA H100 80GB HBM3")

    assert device is not None
    assert device.name == "h100"
    assert reported_device("NVIDIA H100 PCIe") is None
    assert reported_device("NVIDIA GeForce RTX 4090 Laptop GPU") is None


def test_a_name_of_the_driver_means_one_device() -> None:
    names = [name for device in DEVICES.values() for name in device.reported_as]
    assert len(names) == len(set(names))
