"""What somebody typed in becomes settings, or an error that says what is wrong with it."""

from __future__ import annotations

import json

import pytest
from rich.pretty import pretty_repr

from airflow_wasabi_jobs.api.errors import InvalidSettings
from airflow_wasabi_jobs.api.settings import Options, check

NAME = "connection 'wasabi_default'"
ACCESS_KEY = "ACCESSKEY0123456789X"
SECRET_KEY = "secret/key+with=signs/0123456789"
PASSWORD = "proxy-p%40ssword"
PROXY = f"http://proxy-user:{PASSWORD}@proxy.example.com:3128"


def made(**fields):
    fields = {"host": "https://air.example.com", "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **fields}
    if isinstance(fields.get("extra"), dict):
        fields["extra"] = json.dumps(fields["extra"])
    return check(name=NAME, **fields)


def refused(**fields):
    with pytest.raises(InvalidSettings) as caught:
        made(**fields)
    assert NAME in str(caught.value)
    assert not caught.value.is_passing
    return caught.value


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"host": "https://air.example.com"}, "https://air.example.com"),
        ({"host": "https://air.example.com/"}, "https://air.example.com"),
        ({"host": "HTTPS://Air.Example.COM"}, "https://air.example.com"),
        ({"host": " https://air.example.com\n"}, "https://air.example.com"),
        ({"host": "air.example.com"}, "https://air.example.com"),
        ({"host": "air"}, "https://air"),
        ({"host": "192.0.2.1"}, "https://192.0.2.1"),
        # with a port
        ({"host": "air.example.com:8443"}, "https://air.example.com:8443"),
        ({"host": "air.example.com:"}, "https://air.example.com"),
        ({"host": "air.example.com", "port": 8443}, "https://air.example.com:8443"),
        ({"host": "https://air.example.com:8443", "port": 8443}, "https://air.example.com:8443"),
        ({"host": "air.example.com", "port": 65535}, "https://air.example.com:65535"),
        # with a path prefix
        ({"host": "air.example.com/prefix"}, "https://air.example.com/prefix"),
        ({"host": "https://air.example.com:8443/a/b/"}, "https://air.example.com:8443/a/b"),
        ({"host": "https://air.example.com", "path": "/prefix/"}, "https://air.example.com/prefix"),
        ({"host": "https://air.example.com/a", "path": "b"}, "https://air.example.com/a/b"),
        ({"host": "https://air.example.com", "path": ""}, "https://air.example.com"),
        ({"host": "https://air.example.com", "path": "/"}, "https://air.example.com"),
        ({"host": "https://air.example.com", "path": "a b?ü"}, "https://air.example.com/a%20b%3F%C3%BC"),
        ({"host": "https://air.example.com/a%20b"}, "https://air.example.com/a%20b"),
        # IPv6
        ({"host": "https://[2001:db8::1]:8443/prefix"}, "https://[2001:db8::1]:8443/prefix"),
        ({"host": "[2001:db8::1]"}, "https://[2001:db8::1]"),
        ({"host": "[2001:db8::1]:8443"}, "https://[2001:db8::1]:8443"),
        ({"host": "2001:db8::1"}, "https://[2001:db8::1]"),
        ({"host": "2001:db8::1", "port": 8443}, "https://[2001:db8::1]:8443"),
        # as Airflow takes wasabi://key:key@air.example.com:8443/prefix to pieces
        ({"host": "air.example.com", "port": 8443, "path": "prefix"}, "https://air.example.com:8443/prefix"),
    ],
)
def test_a_base_url(fields, expected):
    assert made(**fields).base_url == expected


@pytest.mark.parametrize("host", [None, "", " \n"])
def test_a_host_is_needed(host):
    assert "no host" in str(refused(host=host))


@pytest.mark.parametrize(
    "host",
    [
        "ftp://air.example.com",
        "https://",
        "https:///prefix",
        "//air.example.com",
        "https://:8443",
        "https://air example.com",
        "https://air.example.com/a b",
        "https://air.example.com?page=1",
        "https://air.example.com/#jobs",
        "https:\\\\air.example.com",
        "https:/air.example.com",
        "https//air.example.com",
        "HTTPS:air.example.com",
        "http",
        "https://air..example.com",
        "https://.example.com",
        "https://" + 64 * "a",
        "https://[2001:db8::1",
        "https://[2001:db8::g]",
        "https://air.example.com:https",
        "https://air.example.com:65536",
        "https://air.example.com:-1",
        "https://air.example.com:0",
        # nothing that a name can be made of: the clients would each say something else to these
        "https://*.example.com",
        "https://air%.example.com",
        "https://air%2Fexample.com",
        "https://air|example.com",
        "https://air,example.com",
        "https://air;example.com",
        "https://<air.example.com>",
    ],
)
def test_a_host_that_can_not_be_used(host):
    error = refused(host=host)
    assert "host" in str(error) or "port" in str(error)


@pytest.mark.parametrize("host", ["https://user@air.example.com", f"https://{ACCESS_KEY}:{PASSWORD}@air.example.com"])
def test_the_keys_do_not_belong_into_the_host(host):
    assert "login and password" in str(refused(host=host))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_can_not_be_used(port):
    assert f"port {port}" in str(refused(port=port))


def test_two_ports():
    message = str(refused(host="https://air.example.com:8443", port=443))
    assert "8443" in message
    assert "443." in message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_scheme_in_place_of_the_path_prefix(scheme):
    message = str(refused(host="air.example.com", path=scheme))
    assert "schema" in message
    assert f"{scheme}://" in message


@pytest.mark.parametrize(
    "host",
    [
        "http://localhost:8080",
        "http://LOCALHOST",
        "http://127.0.0.1",
        "http://127.1.2.3:80",
        "http://[::1]:8080/prefix",
    ],
)
def test_plain_http_is_for_this_machine(host):
    assert made(host=host).base_url == host.lower()


@pytest.mark.parametrize(
    "host",
    [
        "http://air.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://127.1",
        "http://[::]",
        "http://[2001:db8::1]",
    ],
)
def test_plain_http_goes_no_further_unless_allowed(host):
    assert "allow_http" in str(refused(host=host))
    assert made(host=host, extra={"allow_http": True}).base_url == host


def test_plain_http_to_this_machine_does_not_go_through_a_proxy_unless_allowed():
    assert "plain http" in str(refused(host="http://127.0.0.1", extra={"proxy": PROXY}))
    assert made(host="http://127.0.0.1", extra={"proxy": PROXY, "allow_http": True}).options.proxy == PROXY


def test_keys():
    settings = made(access_key=f" {ACCESS_KEY}\n", secret_key=f"\t{SECRET_KEY} ")
    assert (settings.access_key, settings.secret_key) == (ACCESS_KEY, SECRET_KEY)


@pytest.mark.parametrize(("field", "shown"), [("access_key", "login"), ("secret_key", "password")])
@pytest.mark.parametrize(
    "key", [None, "", " ", "two words", "line\nbreak", "header\r\nX-More: 1", "nul\0", "schlüssel"]
)
def test_a_key_that_can_not_be_used(field, shown, key):
    assert shown in str(refused(**{field: key}))


@pytest.mark.parametrize("extra", [None, "", "{}", " {} "])
def test_no_extra(extra):
    assert made(extra=extra).options == Options(
        connect_timeout=5, read_timeout=30, retries=3, verify=True, allow_http=False, proxy=None
    )


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("connect_timeout", 2, 2.0),
        ("connect_timeout", "2.5", 2.5),
        ("connect_timeout", 600, 600.0),
        ("read_timeout", 0.25, 0.25),
        ("read_timeout", "60", 60.0),
        ("retries", 0, 0),
        ("retries", "0", 0),
        ("retries", "7", 7),
        ("retries", 10, 10),
        ("verify", False, False),
        ("verify", True, True),
        ("verify", "false", False),
        ("verify", "False", False),
        ("verify", "0", False),
        ("verify", "true", True),
        ("verify", "1", True),
        ("verify", "/etc/ssl/ca.pem", "/etc/ssl/ca.pem"),
        ("allow_http", True, True),
        ("allow_http", "true", True),
        ("allow_http", "1", True),
        ("allow_http", "false", False),
        ("proxy", "http://proxy.example.com:3128", "http://proxy.example.com:3128"),
        ("proxy", "https://proxy.example.com", "https://proxy.example.com"),
        ("proxy", "http://[2001:db8::1]:3128", "http://[2001:db8::1]:3128"),
        ("proxy", PROXY, PROXY),
    ],
)
def test_an_extra(key, value, expected):
    used = getattr(made(extra={key: value}).options, key)
    assert used == expected
    assert type(used) is type(expected)


@pytest.mark.parametrize("key", Options.__struct_fields__)
@pytest.mark.parametrize("value", [None, ""])
def test_an_extra_that_is_there_and_says_nothing(key, value):
    assert made(extra={key: value}).options == Options()


def test_extras_are_taken_together():
    options = made(extra={"connect_timeout": "1", "read_timeout": 2, "retries": "", "verify": "0"}).options
    assert options == Options(connect_timeout=1.0, read_timeout=2.0, verify=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in ("connect_timeout", "read_timeout")
            for value in (0, -1, 600.1, "soon", True, [], {})
        ),
        *((key, value) for key in ("connect_timeout", "read_timeout") for value in ("nan", "inf", "-inf", "0")),
        *(("retries", value) for value in (-1, 11, 10**30, 1.5, "1.5", "many", "-1", True, [])),
        *(("verify", value) for value in (2, 0.5, [], {})),
        *(("allow_http", value) for value in (2, "perhaps", "yes", [], {})),
        *(("proxy", value) for value in (5, True, [PROXY], {"http": PROXY})),
        *(
            ("proxy", value)
            for value in ("proxy.example.com:3128", "proxy.example.com", "//proxy", "socks5://proxy:1080")
        ),
        *(("proxy", value) for value in ("http://", "http://:3128", "http://proxy:port", "http://proxy:65536")),
        *(("proxy", value) for value in ("http://proxy:0", "http://pro xy:3128", "http://*:3128", "http://[::1")),
    ],
)
def test_an_extra_that_can_not_be_used(key, value):
    assert f"'{key}'" in str(refused(extra={key: value}))


def test_an_extra_that_is_not_known():
    message = str(refused(extra={"timeout": 5}))
    assert "unknown key 'timeout'" in message
    assert all(known in message for known in Options.__struct_fields__)


@pytest.mark.parametrize(
    "extra",
    ["[]", "1", "null", '"text"', "read_timeout=60", '{"read_timeout": NaN}', "{", '{"a": "\ud800"}', 10**5 * '{"a":'],
    ids=["list", "number", "null", "text", "no JSON", "NaN", "cut", "surrogate", "deep"],
)
def test_an_extra_that_is_not_an_object(extra):
    assert "not a JSON object" in str(refused(extra=extra))


def test_a_look_has_time_to_connect_and_to_read_twice():
    assert made(extra={"connect_timeout": 2, "read_timeout": 10}).look_timeout == 22


@pytest.mark.parametrize("show", [repr, str, pretty_repr, "{}".format, "{!r}".format])
def test_nothing_secret_is_shown(show):
    settings = made(extra={"proxy": PROXY})
    for shown in (show(settings), show(settings.options), show([settings])):
        assert not_secret(shown)
    assert "https://air.example.com" in show(settings)
    assert NAME.partition(" ")[0] in show(settings)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": f"https://{ACCESS_KEY}:{SECRET_KEY}@air.example.com"},
        {"host": f"https://{SECRET_KEY}@air.example.com"},
        {"host": f"https://air.example.com:{ACCESS_KEY}"},
        {"host": f"{ACCESS_KEY}:{SECRET_KEY}"},
        {"access_key": f"{ACCESS_KEY} {SECRET_KEY}"},
        {"secret_key": f"{SECRET_KEY}\nü"},
        {"extra": f'{{"proxy": "{PROXY}"'},
        {"extra": f"{PROXY}"},
        {"extra": json.dumps([SECRET_KEY])},
        {"extra": {"secret_key": SECRET_KEY}},
        {"extra": {"proxy": PROXY + "0000"}},
        {"extra": {"proxy": PROXY.replace("http:", "socks5:")}},
        {"extra": {"proxy": [PROXY]}},
        {"extra": {"proxy": PROXY, "read_timeout": 0}},
        {"extra": {"read_timeout": PROXY}},
        {"extra": {"retries": SECRET_KEY}},
        {"extra": {"allow_http": SECRET_KEY}},
        {"extra": {"proxy": PROXY}, "host": "http://127.0.0.1"},
    ],
)
def test_no_error_shows_a_secret(fields, all_said):
    assert not_secret(all_said(refused(**fields)))


SPELLINGS = [
    SECRET_KEY,
    SECRET_KEY.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D"),
    SECRET_KEY.replace("/", "%2f").replace("+", "%2b").replace("=", "%3d"),
    SECRET_KEY.replace("+", "%2B").replace("=", "%3D"),
    SECRET_KEY.replace("/", "\\/"),
    SECRET_KEY.replace("/", "\\u002f").replace("+", "\\u002b"),
    SECRET_KEY.replace("/", "\\u002F").replace("+", "\\u002B"),
    SECRET_KEY.replace("+", "&#43;").replace("=", "&#61;"),
    SECRET_KEY.replace("/", "&#x2F;").replace("=", "&#x3D;"),
    ACCESS_KEY,
    f"proxy-user:{PASSWORD}",
    PASSWORD,
    PASSWORD.replace("%40", "@"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_key_is_taken_out_of_a_text_however_it_is_written_there(spelling):
    scrubbed = made(extra={"proxy": PROXY}).scrub(f"before {spelling} and {spelling} after")
    assert scrubbed == "before *** and *** after"


def test_a_key_that_begins_like_the_other_leaves_nothing_of_it():
    settings = made(access_key="0123456789", secret_key="0123456789/abcdef")
    assert settings.scrub("0123456789/abcdef, 0123456789") == "***, ***"


@pytest.mark.parametrize("extra", [{}, {"proxy": PROXY}, {"proxy": "http://proxy.example.com:3128"}])
def test_a_text_without_a_key_is_left_as_it_is(extra):
    text = "The user proxy of air.example.com: 100 % of a/b+c=d \\/ &amp; http://proxy.example.com:3128"
    assert made(extra=extra).scrub(text) == text


def not_secret(text):
    return not any(secret in text for secret in (ACCESS_KEY, SECRET_KEY, *SPELLINGS))
