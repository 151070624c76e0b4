"""Machines as network namespaces on one bridge, each with a name, an address and a cable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

TOOLS = ("ip", "unshare", "setpriv", "hostname")
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
except OSError:
    sys.exit(1)
"""


class NoNetwork(Exception):
    """With the reason why this machine cannot do it."""


class Machine(NamedTuple):
    name: str
    address: str
    namespace: str
    cable: str  # the end of it in the bridge

    @property
    def prefix(self) -> list[str]:
        """Return the beginning of a command line that runs there, under the machine's name."""
        script = f'hostname {self.name} && exec "$@"'
        enter = ["ip", "netns", "exec", self.namespace]
        return [*enter, "unshare", "--uts", "sh", "-c", script, "sh"]

    def reaches(self, address: str, port: int) -> bool:
        """Return whether somebody there takes a connection from this machine."""
        command = [*self.prefix, sys.executable, "-c", CONNECT, address, str(port)]
        code = subprocess.run(command, check=False).returncode
        assert code in (0, 1), f"{command} ended with {code}"
        return code == 0


class Network:
    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise NoNetwork("network namespaces need root")
        if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
            raise NoNetwork(f"{missing[0]} is missing (apt-get install iproute2 util-linux)")
        self._number = os.getpid() % 200
        self.bridge = f"fqbr{self._number}"
        self.subnet = f"10.213.{self._number}.0/24"
        self._machines: list[Machine] = []
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("address", "add", self._address(1), "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
        except NoNetwork:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def add(self, name: str) -> Machine:
        number = len(self._machines) + 2
        address = self._address(number)
        own = f"fq{self._number}"
        machine = Machine(name, address.partition("/")[0], f"{own}-{name}", f"{own}c{number}")
        self._boot(machine)
        _ip("link", "add", machine.cable, "master", self.bridge, *_plug_of(machine))
        _set_up(machine, address)
        _ip("link", "set", machine.cable, "up")
        return machine

    def add_behind(self, gateway: Machine, name: str) -> Machine:
        """Add a machine whose only cable leads to `gateway`, which passes nothing on."""
        number = len(self._machines) + 2
        network = f"10.214.{self._number}"
        machine = Machine(name, f"{network}.2", f"fq{self._number}-{name}", f"eth{number}")
        self._boot(machine)
        _ip("-n", gateway.namespace, "link", "add", machine.cable, *_plug_of(machine))
        _ip("-n", gateway.namespace, "address", "add", f"{network}.1/24", "dev", machine.cable)
        _ip("-n", gateway.namespace, "link", "set", machine.cable, "up")
        _set_up(machine, f"{network}.2/24")
        _ip("-n", machine.namespace, "route", "add", "default", "via", f"{network}.1")
        keep = "echo 0 > /proc/sys/net/ipv4/ip_forward"
        subprocess.run([*gateway.prefix, "sh", "-c", keep], check=True)
        return machine

    @contextmanager
    def unplugged(self, machine: Machine) -> Iterator[None]:
        """Cut a machine off: nothing is refused, nothing arrives."""
        _ip("link", "set", machine.cable, "down")
        try:
            yield
        finally:
            _ip("link", "set", machine.cable, "up")

    def close(self) -> None:
        for machine in self._machines:
            subprocess.run(["ip", "netns", "delete", machine.namespace], check=False)
        subprocess.run(["ip", "link", "delete", self.bridge], check=False, capture_output=True)

    def _boot(self, machine: Machine) -> None:
        self._machines.append(machine)
        _ip("netns", "add", machine.namespace)

    def _address(self, number: int) -> str:
        return f"10.213.{self._number}.{number}/24"


def _plug_of(machine: Machine) -> list[str]:
    return ["type", "veth", "peer", "name", "eth0", "netns", machine.namespace]


def _set_up(machine: Machine, address: str) -> None:
    for arguments in (
        ["address", "add", address, "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["link", "set", "lo", "up"],
    ):
        _ip("-n", machine.namespace, *arguments)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoNetwork(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
