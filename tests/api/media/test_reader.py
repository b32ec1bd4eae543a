"""Media that a request carries itself, and files of the server's machine."""

import base64
import os
from pathlib import Path

import pytest

from app.api.media.attachments import Attachments, translated
from app.api.media.file_types import complaint
from app.api.media.reader import MediaLimits, MediaReader, open_media
from app.api.media.reference import Reference
from app.core.conversation import MediaKind
from app.errors import InvalidRequest
from app.settings import Settings

PICTURE = b"\x89PNG\r\n\x1a\n and so on"
BASE64 = base64.b64encode(PICTURE).decode()
LIMITS = MediaLimits(max_count=3, max_bytes=1000, max_total_bytes=1500, timeout_s=20)


def image(text: str, param: str = "the.place", *, is_base64: bool = False) -> Reference:
    return Reference("image", text, param, is_base64)


async def bytes_of(reference: Reference, reader: MediaReader | None = None) -> bytes:
    return (await (reader or MediaReader(LIMITS)).read([reference]))[reference]


async def refusal(*references: Reference, reader: MediaReader | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await (reader or MediaReader(LIMITS)).read(list(references))
    assert caught.value.message.startswith(f"'{caught.value.param}' ")
    return caught.value


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:image/jpeg;charset=utf-8;BASE64,{BASE64}",
        f"data:;base64,{BASE64[:8]}\r\n{BASE64[8:]}\n",
    ],
)
async def test_a_data_url_is_what_its_bytes_are(url: str) -> None:
    assert await bytes_of(image(url)) == PICTURE


async def test_base64_needs_no_url() -> None:
    assert await bytes_of(image(BASE64, is_base64=True)) == PICTURE


@pytest.mark.parametrize("size", [2**20, 3 * 2**18 - 1, 3 * 2**18, 3 * 2**18 + 1, 2**21 + 1])
async def test_long_base64_is_read_piece_by_piece(size: int) -> None:
    """Pieces have 2**20 characters."""
    reader = MediaReader(MediaLimits(max_count=1, max_bytes=2**22, max_total_bytes=2**22, timeout_s=20))
    data = (PICTURE + b"".join(number.to_bytes(3, "big") for number in range(size // 3)))[:size]
    for text in (base64.b64encode(data).decode(), base64.encodebytes(data).decode()):
        assert await bytes_of(image(text, is_base64=True), reader) == data
        error = await refusal(image(f"{text}AA==AAAA", is_base64=True), reader=reader)
        assert "valid base64" in error.message
    ended = "A" * (2**20 - 4) + "AA=="
    assert "valid base64" in (await refusal(image(ended + "AAAA", is_base64=True), reader=reader)).message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64,", "is empty"),
        ("data:,", "no data: URL of base64"),
        ("data:image/png,%89PNG", "no data: URL of base64"),
        ("data:image/png;base64", "no data: URL of base64"),
        ("data:" + "a" * 1_000_000 + ";base64,", "no data: URL of base64"),
        (f"data:image/png;base64,{BASE64}!", "valid base64"),
        (f"data:image/png;base64,{BASE64[:-1]}", "valid base64"),
        (f"data:image/png;base64,{BASE64}é", "valid base64"),
        ("data:image/png;base64,PGh0bWw+", "is no image"),
        ("data:image/png;base64," + "A" * 1340, "more than 1000 bytes"),
        ("https://example.com/x.png", "--allow-remote-media"),
        ("HTTP://127.0.0.1/", "--allow-remote-media"),
        ("file:///etc/passwd", "--media-root"),
        ("/etc/passwd", "--media-root"),
        ("", "--media-root"),
        ("ftp://example.com/x.png", "no data:, https: or http: URL"),
        ("gopher://127.0.0.1:6379/_x", "no data:, https: or http: URL"),
        ("javascript:alert(1)", "no data:, https: or http: URL"),
        ("blob:http://127.0.0.1/", "no data:, https: or http: URL"),
    ],
)
async def test_what_is_refused(url: str, said: str) -> None:
    error = await refusal(image(url))
    assert said in error.message
    assert (error.param, error.error_code, len(error.message) < 300) == ("the.place", "invalid_media", True)


async def test_what_a_request_may_have_is_counted() -> None:
    large = base64.b64encode(PICTURE + bytes(700)).decode()
    pictures = [image(f"data:;base64,{large}", "first"), image(f"data:a;base64,{large}", "second")]
    assert len(await MediaReader(LIMITS).read(pictures)) == 2
    third = image(f"data:b;base64,{large}", "third")
    error = await refusal(*pictures, third)
    assert (error.param, "1500 bytes at most" in error.message) == ("third", True)
    error = await refusal(*pictures, pictures[0], third)
    assert (error.param, "3 media at most" in error.message) == ("third", True)


class TestFilesOfTheMachine:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        root = tmp_path / "root"
        (root / "in ner").mkdir(parents=True)
        (root / "x.png").write_bytes(PICTURE)
        (root / "in ner" / "é.png").write_bytes(PICTURE)
        (root / "inside.png").symlink_to("in ner/é.png")
        (tmp_path / "secret.png").write_bytes(PICTURE)
        (tmp_path / "root-2").mkdir()
        (tmp_path / "root-2" / "x.png").write_bytes(PICTURE)
        (root / "outside.png").symlink_to(tmp_path / "secret.png")
        (root / "up").symlink_to(tmp_path)
        (root / "circle").symlink_to("circle")
        (root / "large.png").write_bytes(PICTURE + bytes(1000))
        os.mkfifo(root / "pipe")
        return root

    @pytest.mark.parametrize(
        "path",
        [
            *("x.png", "{root}/x.png", "file://{root}/x.png", "file://localhost{root}/in%20ner/%C3%A9.png"),
            *("inside.png", "in ner/../x.png", "file://{root}/in%20ner/%2e%2e/x.png", "../root/x.png", "up/root/x.png"),
        ],
    )
    async def test_are_read_where_they_may_be(self, root: Path, path: str) -> None:
        # The folder itself may be reached by a link.
        (root.parent / "link").symlink_to(root)
        for folder in (root, root.parent / "link"):
            assert await bytes_of(image(path.format(root=root)), MediaReader(LIMITS, folder)) == PICTURE

    @pytest.mark.parametrize(
        "path",
        [
            *(
                "../secret.png",
                "{root}/../secret.png",
                "file://{root}/../secret.png",
                "file://{root}/%2e%2e/secret.png",
            ),
            *("outside.png", "up/secret.png", "{root}-2/x.png", "file:///etc/passwd", "/etc/passwd", "/dev/zero"),
            *("missing.png", "in ner", "pipe", "circle", "", ".", "a\0b", "x" * 5000, "~/x.png"),
            *("file://example.com{root}/x.png", "file:x.png", "file:{root}/x.png"),
        ],
    )
    async def test_are_not_read_where_they_may_not(self, root: Path, path: str) -> None:
        error = await refusal(image(path.format(root=root)), reader=MediaReader(LIMITS, root))
        assert "is no file under the server's --media-root that can be read" in error.message

    async def test_have_limits_too(self, root: Path) -> None:
        assert "more than 1000 bytes" in (await refusal(image("large.png"), reader=MediaReader(LIMITS, root))).message


ISO = (b"\0\0\0\x18ftypmp42", b"\0\0\0\x1cftypM4A ", b"\0\0\0\x08wide")
RIFF = b"RIFF\n\n\0\0"
MPEG_SOUND = (b"ID3\4", b"\xff\xfb\x90", b"\xff\xf1\x50")
BEGINNINGS: dict[MediaKind, tuple[bytes, ...]] = {
    "image": (PICTURE, b"\xff\xd8\xff\xe0", b"GIF89a", b"GIF87a", RIFF + b"WEBPVP8 ", b"BM6\0"),
    "video": (*ISO, b"\x1a\x45\xdf\xa3", RIFF + b"AVI ", b"OggS", b"\0\0\1\xba"),
    "audio": (*ISO, *MPEG_SOUND, b"\x1a\x45\xdf\xa3", RIFF + b"WAVEfmt ", b"fLaC", b"OggS", b"FORM\0\n\0\0AIFF"),
}


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_file_is_of_the_kind_that_it_begins_as(kind: MediaKind) -> None:
    assert [data for data in BEGINNINGS[kind] if complaint(kind, data) is not None] == []
    others = {data for other in BEGINNINGS for data in BEGINNINGS[other]} - set(BEGINNINGS[kind])
    others |= {b"<svg>", b"%PDF-1.7", b"\x7fELF", b"MZ", b"\xff\xfea\0", RIFF, b" " + BEGINNINGS[kind][0]}
    assert [data for data in others if complaint(kind, data) is None] == []
    assert complaint(kind, b"") == "is empty; send the bytes of a file"


class TestATranslation:
    async def test_is_made_again_with_what_it_wanted(self) -> None:
        url = f"data:;base64,{BASE64}"

        def translate(attachments: Attachments) -> list[bytes]:
            return [attachments.take(image(url, place)) for place in ("a", "b")]

        assert await translated(translate, MediaReader(LIMITS).read) == [PICTURE, PICTURE]

    async def test_without_media_is_made_once(self) -> None:
        made: list[Attachments] = []
        await translated(made.append, MediaReader(LIMITS).read)
        assert len(made) == 1

    async def test_that_fails_lets_nothing_be_read(self) -> None:
        def translate(attachments: Attachments) -> None:
            attachments.take(image("ftp://x"))
            raise InvalidRequest("Something else is wrong.", param="other")

        with pytest.raises(InvalidRequest, match="Something else"):
            await translated(translate, MediaReader(LIMITS).read)


async def test_the_settings_say_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PICTURE)
    closed, opened = open_media(Settings()), open_media(Settings(allow_remote_media=True, media_root=tmp_path))
    assert "--allow-remote-media" in (await refusal(image("http://127.0.0.1/"), reader=closed)).message
    assert "not public" in (await refusal(image("http://127.0.0.1/"), reader=opened)).message
    assert "--media-root" in (await refusal(image("x.png"), reader=closed)).message
    assert await bytes_of(image("x.png"), opened) == PICTURE
    small = open_media(Settings(max_media=1, max_media_bytes=10))
    assert "more than 10 bytes" in (await refusal(image(BASE64, is_base64=True), reader=small)).message
    assert "1 media at most" in (await refusal(image("a"), image("b"), reader=small)).message
