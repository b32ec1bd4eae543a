"""GET /: a page for people who open the server's address in a browser."""

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)
DOCUMENTED = ()


@router.get("/")
async def get_index() -> HTMLResponse:
    """The page."""
    return HTMLResponse(_page())


@cache
def _page() -> str:
    return files("app").joinpath("web", "index.html").read_text(encoding="utf-8")
