import socket
from ipaddress import ip_address, ip_network

import pytest
from pydantic import HttpUrl

from app.base.outbound import addresses
from app.base.outbound.addresses import (
    AddressRefused,
    OutboundTarget,
    is_public,
    parse_target,
    resolve,
)

NOT_PUBLIC = [
    "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1",
    "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::169.254.169.254", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:db8::1", "3fff::1", "2002:7f00:1::1", "2002:a9fe:a9fe::", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "172.32.0.1",
    "192.169.0.1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::200e",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


REFUSED_AT_ONCE = [
    "http://example.com/", "https://user@example.com/", "https://user:word@example.com/",
    "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://0177.0.0.1/",
    "https://[::1]/", "https://[::ffff:169.254.169.254]/", "https://169.254.169.254/latest",
    "https://8.8.8.8:25/", "https://8.8.8.8:80/", "https://[fe80::1]/",
    "https://%31%32%37.0.0.1/", "https://127。0。0。1/",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED_AT_ONCE)
def test_urls_that_can_never_be_allowed(url: str) -> None:
    """In the form that the API stores: a number in any notation has become an address by then."""
    with pytest.raises(AddressRefused):
        parse_target(str(HttpUrl(url)), [])


def test_ordinary_urls_are_allowed() -> None:
    assert parse_target("https://hooks.example.com/a?b=c", []) == OutboundTarget(
        True,
        "hooks.example.com",
        443,
        "/a?b=c",
    )
    assert parse_target("https://8.8.8.8:8443/", []) == OutboundTarget(True, "8.8.8.8", 8443, "/")
    assert parse_target("https://[2606:4700:4700::1111]/", []).host == "2606:4700:4700::1111"


def test_a_name_of_an_inner_address_is_refused_without_the_address() -> None:
    target = parse_target("https://localhost/", [])
    with pytest.raises(AddressRefused) as caught:
        resolve(target, [])
    assert "127.0.0.1" not in str(caught.value)
    assert "::1" not in str(caught.value)


@pytest.mark.parametrize("inner", ["10.0.0.7", "::ffff:127.0.0.1", "169.254.169.254"])
def test_a_name_with_one_inner_address_among_several_is_refused(
    inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))
        for address in ("8.8.8.8", inner)
    ]
    monkeypatch.setattr(addresses.socket, "getaddrinfo", lambda *_, **__: answers)
    with pytest.raises(AddressRefused):
        resolve(parse_target("https://hooks.example.com/", []), [])


def test_named_networks_are_allowed_also_without_tls() -> None:
    networks = [ip_network("127.0.0.0/8")]
    target = parse_target("http://127.0.0.1:9/", networks)
    assert resolve(target, networks) == [ip_address("127.0.0.1")]
    for url in ("http://8.8.8.8/", "http://10.0.0.1/", "https://10.0.0.1/"):
        with pytest.raises(AddressRefused):
            parse_target(url, networks)
