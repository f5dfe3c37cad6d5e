"""What the server refuses, and what it tells the browser to refuse.

The dashboard serves one person on their own machine, so the threats are other sites open in the same browser: DNS
rebinding (answered by the list of trusted hosts), cross-site requests (answered by their origin), and markup smuggled
in with a prompt or a corpus (answered by the content security policy).
"""

from urllib.parse import urlsplit

from dash import Dash
from flask import Flask, Response, abort, request

TRUSTED_HOSTS = ["127.0.0.1", "localhost"]
SAFE_SITES = {"same-origin", "none"}
"""Values of `Sec-Fetch-Site` that our own pages and the address bar send."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), browsing-topics=()",
}
LARGEST_REQUEST = 32 * 2**20
"""Bytes. The largest honest request carries one figure back to be written as CSV."""


def secure(app: Dash) -> None:
    """Guard every request to `app` and head every response. Call it last, when all callbacks are registered."""
    server: Flask = app.server
    server.config["TRUSTED_HOSTS"] = TRUSTED_HOSTS
    server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    policy = content_security_policy(app.csp_hashes())

    @server.before_request
    def refuse_foreign_requests() -> None:
        if foreign(request.method, request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin"), request.host):
            abort(403)

    @server.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers.update(HEADERS)
        return response


def content_security_policy(script_hashes: list[str]) -> str:
    """Everything from this server. Dash needs its inline scripts (by hash) and inline styles, exports need blobs."""
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", *(f"'{hash_.strip(chr(39))}'" for hash_ in script_hashes)]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def foreign(method: str, fetch_site: str | None, origin: str | None, host: str) -> bool:
    """Whether another site is behind a request. Only following a link to us is allowed to other sites."""
    if method in ("GET", "HEAD") and origin is None:
        return False
    if fetch_site is not None and fetch_site not in SAFE_SITES:
        return True
    return origin is not None and urlsplit(origin).netloc != host
