"""Who is refused, and what every answer carries."""

import re

import pytest
from flask.testing import FlaskClient

from app.security import content_security_policy, foreign

CALL = {
    "output": "..jobs-list.children...jobs-summary.children...jobs-poll.disabled...finished.data..",
    "outputs": [],
    "inputs": [],
    "changedPropIds": [],
}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8050"])
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/_dash-dependencies", "/assets/theme.js"])
def test_a_foreign_host_gets_400(client: FlaskClient, host: str, path: str) -> None:
    assert client.get(path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1:8050", "localhost:8050", "127.0.0.1"])
def test_this_machine_is_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_cross_site_post_is_refused(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/_dash-update-component", json=CALL, headers=headers).status_code == 403


def test_a_cross_site_read_with_an_origin_is_refused(client: FlaskClient) -> None:
    headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert client.get("/_dash-layout", headers=headers).status_code == 403


def test_a_link_from_another_site_may_be_followed() -> None:
    assert not foreign("GET", "cross-site", None, "127.0.0.1:8050")


def test_our_own_page_may_post() -> None:
    assert not foreign("POST", "same-origin", "http://127.0.0.1:8050", "127.0.0.1:8050")


def test_every_answer_carries_the_policy(client: FlaskClient) -> None:
    for path in ("/", "/_dash-layout", "/themes.json", "/assets/base.css"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe-eval" not in policy
        assert "'unsafe-inline'" not in policy.split("style-src")[0]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_the_policy_names_each_script_by_hash() -> None:
    policy = content_security_policy(["sha256-abc="])
    assert "script-src 'self' 'sha256-abc='" in policy


def test_the_page_names_no_other_host(client: FlaskClient) -> None:
    page = client.get("/").text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)


def test_errors_show_no_traceback_and_no_debugger(client: FlaskClient) -> None:
    answer = client.post("/_dash-update-component", json={"output": "nothing.here", "inputs": []})
    assert answer.status_code >= 400
    assert "Traceback" not in answer.text
    assert client.get("/?__debugger__=yes&cmd=resource&f=debugger.js").content_type.startswith("text/html")


def test_assets_do_not_climb(client: FlaskClient) -> None:
    assert client.get("/assets/../cli.py").status_code in (400, 403, 404) or "AppOptions" not in (
        client.get("/assets/../cli.py").text
    )
    assert "AppOptions" not in client.get("/assets/%2e%2e/cli.py").text
