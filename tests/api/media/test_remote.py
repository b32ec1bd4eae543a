"""What is fetched from elsewhere, and above all what is not."""

import gzip
import ssl
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from app.api.media.addresses import Address, is_own, is_public
from app.api.media.intake import Allowance, Intake
from app.api.media.reader import MediaLimits, MediaReader
from app.api.media.reference import Reference
from app.api.media.remote import RemoteFiles
from app.errors import InvalidRequest
from tests.fixtures.web_server import CERTIFICATE, WebServer, redirect, reply, serving

PICTURE = b"\x89PNG\r\n\x1a\n and so on"
LIMITS = MediaLimits(max_count=4, max_bytes=1_000_000, max_total_bytes=1_500_000, timeout_s=20)
HERE = "127.0.0.1"


class Names:
    """A resolver of the names that it is given, each with the addresses of one lookup after the other."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.asked: list[str] = []
        self._names = names

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        answers = self._names.get(host.partition(".")[0], [[host]])
        return [ip_address(one) for one in answers[min(self.asked.count(host), len(answers)) - 1]]


def is_here(address: Address) -> bool:
    return str(address) == HERE


async def fetched(remote: RemoteFiles, url: str, limits: MediaLimits = LIMITS) -> bytes:
    reference = Reference("image", url, "the.place")
    return (await MediaReader(limits, remote=remote).read([reference]))[reference]


async def refusal(remote: RemoteFiles, url: str, limits: MediaLimits = LIMITS) -> str:
    with pytest.raises(InvalidRequest) as caught:
        await fetched(remote, url, limits)
    assert caught.value.param == "the.place"
    assert caught.value.message.startswith("'the.place' ")
    return caught.value.message


NOT_PUBLIC = """
    0.0.0.0 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.255 168.63.129.16
    169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1
    198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::10.0.0.1
    64:ff9b::169.254.169.254 64:ff9b:1::8.8.8.8 100::1 2001::1 2001:0:7f00:1::1 2001:20::1 2001:db8::1 2002:7f00:1::1
    2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1
"""
PUBLIC = """
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 169.253.255.255
    172.15.255.255 172.32.0.1 192.167.255.255 192.169.0.1 223.255.255.255
    2001:4860:4860::8888 2606:4700:4700::1111 2a00:1450:4001::1 64:ff9b::8.8.8.8
"""


@pytest.mark.parametrize(("addresses", "expected"), [(NOT_PUBLIC, False), (PUBLIC, True)])
def test_which_addresses_are_public(addresses: str, expected: bool) -> None:
    assert [one for one in addresses.split() if is_public(ip_address(one)) is not expected] == []


def test_this_machine_knows_its_own_addresses() -> None:
    others = ["127.0.0.2", "192.0.2.1", "2001:db8::1"]
    assert [is_own(ip_address(one)) for one in (HERE, *others)] == [True, False, False, False]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "017700000001"),
        *("0177.1", "00.0", "0", "0.0.0.0", "10.0.0.1", "167772161", "169.254.169.254", "2852039166"),
        *("0xa9.0xfe.0xa9.0xfe", "0xa9fea9fe", "192.168.1.1", "100.64.0.1", "168.63.129.16", "224.0.0.1"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"),
        *("[2002:7f00:1::]", "[2001:0:7f00:1::1]", "[fe80::1]", "[fd00:ec2::254]", "[0:0:0:0:0:0:0:1]"),
        *("localhost", "LOCALHOST", "localhost:8000", "127.0.0.1:22", "[::1]:80"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
async def test_no_notation_of_an_address_that_is_not_public_is_fetched(scheme: str, host: str) -> None:
    """With the system's own resolver."""
    assert "leads to an address that is not public" in await refusal(RemoteFiles(), f"{scheme}://{host}/x.png")


@pytest.mark.parametrize(
    "url",
    [
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://[::1%25lo]/",
        "http://0177.0.0.1/",
        "http://127.0.0.1\t/",
        "http://127.0.0.1\\@8.8.8.8/",
        "http://user@8.8.8.8/",
        "http://8.8.8.8@127.0.0.1/",
        "http://user:password@files.test/",
        "http:///x.png",
        "http:127.0.0.1",
        "http://",
        "http://files.test:99999/",
        "http://" + "a" * 300 + "/",
        "http://a..b/",
        "https://" + "a" * 70_000,
    ],
)
async def test_odd_urls_are_refused_before_anything_is_connected_to(url: str) -> None:
    tried: list[Address] = []

    def note(address: Address) -> bool:
        tried.append(address)
        return is_public(address)

    await refusal(RemoteFiles(is_allowed=note), url)
    assert not any(map(is_public, tried))


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], ["::1"], ["8.8.8.8", "127.0.0.1"], ["2606:4700::1", "fd00::1"], ["169.254.169.254"]]
)
async def test_a_name_with_any_address_that_is_not_public_is_refused(addresses: list[str]) -> None:
    names = Names(files=[addresses])
    assert "not public" in await refusal(RemoteFiles(names), "https://files.test/x.png")
    assert names.asked == ["files.test"]


async def test_a_host_without_an_address_is_refused() -> None:
    assert "cannot be found" in await refusal(RemoteFiles(Names(files=[[]])), "https://files.test/x.png")


async def test_a_file_is_fetched_from_the_address_that_was_checked() -> None:
    """The name has another meaning when it is asked for again, and none at all to the system."""
    names = Names(files=[[HERE], ["10.0.0.1"]])
    async with serving({"/a%20b?c=d": reply(PICTURE)}) as web:
        url = f"http://files.test:{web.port}/a%20b?c=d#e"
        assert await fetched(RemoteFiles(names, is_here), url) == PICTURE
    assert names.asked == ["files.test"]
    (request,) = web.requests
    assert f"\r\nHost: files.test:{web.port}\r\n" in request
    assert "\r\nAccept-Encoding: identity\r\n" in request


async def test_addresses_are_tried_one_after_the_other() -> None:
    async with serving({"/x": reply(PICTURE)}) as web:
        remote = RemoteFiles(Names(files=[["::1", HERE]]), lambda _: True)
        assert await fetched(remote, f"http://files.test:{web.port}/x") == PICTURE
        remote = RemoteFiles(Names(files=[["::1", "::1"]]), lambda _: True)
        assert "ConnectError" in await refusal(remote, f"http://files.test:{web.port}/x")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://10.0.0.1/", "not public"),
        ("http://[::1]:{port}/private", "not public"),
        ("http://2130706434:{port}/private", "not public"),
        ("//169.254.169.254/latest/meta-data", "not public"),
        ("http://other.test:{port}/private", "not public"),
        ("https://files.test:1@10.0.0.1/", "password"),
        ("file:///etc/passwd", "no http or https"),
        ("ftp://files.test/x", "no http or https"),
        ("gopher://files.test/x", "no http or https"),
        ("data:image/png;base64,iVBORw0KGgo=", "no http or https"),
        ("http://0177.0.0.1/", "InvalidURL"),
    ],
)
async def test_a_redirect_is_looked_at_as_a_url_of_its_own(location: str, said: str) -> None:
    async def addresses(host: str, port: int) -> list[Address]:
        known = {"files.test": HERE, "other.test": "127.0.0.2", "2130706434": "127.0.0.2"}
        return [ip_address(known.get(host, host))]

    answers: dict[str, bytes | None] = {"/private": reply(PICTURE)}
    async with serving(answers) as web:
        answers["/x"] = redirect(location.replace("{port}", str(web.port)))
        assert said in await refusal(RemoteFiles(addresses, is_here), f"http://files.test:{web.port}/x")
    assert web.paths == ["/x"]


async def test_a_name_may_not_change_its_address_on_the_way() -> None:
    async with serving({"/x": redirect("/y"), "/y": reply(PICTURE)}) as web:
        remote = RemoteFiles(Names(files=[[HERE], ["127.0.0.2"]]), is_here)
        assert "not public" in await refusal(remote, f"http://files.test:{web.port}/x")
    assert web.paths == ["/x"]


async def test_a_few_redirects_are_followed_and_no_cookie_comes_along() -> None:
    answers = {f"/{number}": redirect(f"{number + 1}", "Set-Cookie: a=b; Path=/") for number in range(10)}
    async with serving(answers | {"/10": reply(PICTURE)}) as web:
        remote, start = RemoteFiles(Names(files=[[HERE]]), is_here), f"http://files.test:{web.port}"
        assert await fetched(remote, f"{start}/7") == PICTURE
        assert web.paths == ["/7", "/8", "/9", "/10"]
        assert "more than 3 times" in await refusal(remote, f"{start}/6")
    assert not any("cookie" in request.lower() for request in web.requests)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving({"/x": reply(PICTURE)}) as web, serving({}) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        remote = RemoteFiles(Names(files=[[HERE]]), is_here)
        assert await fetched(remote, f"http://files.test:{web.port}/x") == PICTURE
    assert proxy.requests == []


async def test_the_certificate_is_that_of_the_name() -> None:
    trusted = ssl.create_default_context(cafile=str(CERTIFICATE))
    names = Names(files=[[HERE]], other=[[HERE]])
    async with serving({"/x": reply(PICTURE)}, is_secure=True) as web:
        remote = RemoteFiles(names, is_here, trusted)
        assert await fetched(remote, f"https://files.test:{web.port}/x") == PICTURE
        for host in ("other.test", HERE):
            assert "ConnectError" in await refusal(remote, f"https://{host}:{web.port}/x")
        assert "ConnectError" in await refusal(RemoteFiles(names, is_here), f"https://files.test:{web.port}/x")
    assert len(web.requests) == 1


BOMB = gzip.compress(bytes(10_000_000))
ENDLESS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + bytes(65_536) + b"\r\n") * 1000


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (reply(b"", "404 Not Found"), "answered 404"),
        (reply(PICTURE, "206 Partial Content"), "answered 206"),
        (reply(PICTURE, "500 Internal Server Error"), "answered 500"),
        (reply(b"", "302 Found"), "answered 302"),
        (reply(b""), "is empty"),
        (reply(b"<html>", "200 OK", "Content-Type: image/png"), "is no image"),
        (reply(BOMB, "200 OK", "Content-Encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "more than 1000000 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" + PICTURE, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 500_000 + b"\r\n\r\n", "RemoteProtocolError"),
    ],
)
async def test_answers_that_are_no_picture_are_refused(answer: bytes, said: str) -> None:
    async with serving({"/x": answer}) as web:
        assert said in await refusal(RemoteFiles(Names(files=[[HERE]]), is_here), f"http://files.test:{web.port}/x")


async def test_an_endless_answer_is_read_as_far_as_it_may_be() -> None:
    async with serving({"/x": ENDLESS}) as web:
        remote = RemoteFiles(Names(files=[[HERE]]), is_here)
        assert "more than 1000000 bytes" in await refusal(remote, f"http://files.test:{web.port}/x")
    # What the system holds in its buffers between the two is some megabytes.
    assert web.num_sent < len(ENDLESS) / 2


async def test_an_answer_that_does_not_come_is_waited_for_only_so_long() -> None:
    limits = MediaLimits(max_count=1, max_bytes=1000, max_total_bytes=1000, timeout_s=0.1)
    async with serving({"/x": None}) as web:
        said = await refusal(RemoteFiles(Names(files=[[HERE]]), is_here), f"http://files.test:{web.port}/x", limits)
    assert "within 0.1 s (--media-timeout)" in said


async def test_several_files_are_fetched_at_once_and_have_a_size_together() -> None:
    answers: Mapping[str, bytes | None] = {f"/{name}": reply(PICTURE + name.encode() * 600_000) for name in "abc"}
    async with serving(answers) as web:
        reader = MediaReader(LIMITS, remote=RemoteFiles(Names(files=[[HERE]]), is_here))
        wanted = [_picture(web, name) for name in "aab"]
        found = await reader.read(wanted)
        assert [found[one][-1:] for one in wanted] == [b"a", b"a", b"b"]
        assert sorted(web.paths) == ["/a", "/b"]
        with pytest.raises(InvalidRequest, match="1500000 bytes at most"):
            await reader.read([_picture(web, name) for name in "abc"])


def _picture(web: WebServer, name: str) -> Reference:
    return Reference("image", f"http://files.test:{web.port}/{name}", f"place.{name}")


def test_an_intake_counts_what_comes() -> None:
    allowance = Allowance(10, 10)
    intake = Intake(Reference("image", "", "p"), 6, allowance)
    intake.add(b"123")
    intake.add(b"456")
    with pytest.raises(InvalidRequest, match="6 bytes"):
        intake.add(b"7")
    assert (bytes(intake.data), allowance.left_bytes) == (b"123456", 4)
