"""Validation of the fields of a connection: valid fields become settings, others an error that names the field."""

from __future__ import annotations

import json

import pytest
from rich.pretty import pretty_repr

from airflow_wasabi_jobs.api.exceptions import ConnectionConfigError
from airflow_wasabi_jobs.api.settings import Options, build_settings

NAME = "connection 'wasabi_default'"
ACCESS_KEY = "ACCESSKEY0123456789X"
SECRET_KEY = "secret/key+with=signs/0123456789"
PASSWORD = "proxy-p%40ssword"
CONSOLE_URL = "https://console.example.com/{bucket}/{key}"
PROXY = f"http://proxy-user:{PASSWORD}@proxy.example.com:3128"


def make_settings(**fields):
    fields = {"host": "https://air.example.com", "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **fields}
    if isinstance(fields.get("extra"), dict):
        fields["extra"] = json.dumps(fields["extra"])
    return build_settings(name=NAME, **fields)


def expect_config_error(**fields):
    with pytest.raises(ConnectionConfigError) as caught:
        make_settings(**fields)
    assert NAME in str(caught.value) or NAME.capitalize() in str(caught.value)
    assert not caught.value.is_transient
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
        # as Airflow parses wasabi://key:key@air.example.com:8443/prefix
        ({"host": "air.example.com", "port": 8443, "path": "prefix"}, "https://air.example.com:8443/prefix"),
    ],
)
def test_base_url(fields, expected):
    assert make_settings(**fields).base_url == expected


@pytest.mark.parametrize("host", [None, "", " \n"])
def test_host_is_required(host):
    assert "No host is set" in str(expect_config_error(host=host))


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
        # not valid in a host name: the clients would report different errors
        "https://*.example.com",
        "https://air%.example.com",
        "https://air%2Fexample.com",
        "https://air|example.com",
        "https://air,example.com",
        "https://air;example.com",
        "https://<air.example.com>",
    ],
)
def test_invalid_host(host):
    error = expect_config_error(host=host)
    assert "host" in str(error) or "port" in str(error)


@pytest.mark.parametrize("host", ["https://user@air.example.com", f"https://{ACCESS_KEY}:{PASSWORD}@air.example.com"])
def test_keys_in_the_host_are_rejected(host):
    assert "login and password" in str(expect_config_error(host=host))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_invalid_port(port):
    assert f"is {port}, but must be between 1 and 65535" in str(expect_config_error(port=port))


def test_conflicting_ports():
    message = str(expect_config_error(host="https://air.example.com:8443", port=443))
    assert "8443" in message
    assert "443." in message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_scheme_in_the_path_is_rejected(scheme):
    message = str(expect_config_error(host="air.example.com", path=scheme))
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
def test_http_is_allowed_for_loopback(host):
    assert make_settings(host=host).base_url == host.lower()


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
def test_http_elsewhere_needs_allow_http(host):
    assert "allow_http" in str(expect_config_error(host=host))
    assert make_settings(host=host, extra={"allow_http": True}).base_url == host


def test_http_through_a_proxy_needs_allow_http():
    assert "uses unencrypted HTTP, which would expose your keys" in str(
        expect_config_error(host="http://127.0.0.1", extra={"proxy": PROXY})
    )
    assert make_settings(host="http://127.0.0.1", extra={"proxy": PROXY, "allow_http": True}).options.proxy == PROXY


def test_whitespace_around_keys_is_stripped():
    settings = make_settings(access_key=f" {ACCESS_KEY}\n", secret_key=f"\t{SECRET_KEY} ")
    assert (settings.access_key, settings.secret_key) == (ACCESS_KEY, SECRET_KEY)


@pytest.mark.parametrize(("field", "shown"), [("access_key", "login"), ("secret_key", "password")])
@pytest.mark.parametrize(
    "key", [None, "", " ", "two words", "line\nbreak", "header\r\nX-More: 1", "nul\0", "schlüssel"]
)
def test_invalid_key(field, shown, key):
    assert shown in str(expect_config_error(**{field: key}))


@pytest.mark.parametrize("extra", [None, "", "{}", " {} "])
def test_default_options(extra):
    assert make_settings(extra=extra).options == Options(
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
        ("console_url", CONSOLE_URL, CONSOLE_URL),
    ],
)
def test_option(key, value, expected):
    option = getattr(make_settings(extra={key: value}).options, key)
    assert option == expected
    assert type(option) is type(expected)


@pytest.mark.parametrize("key", Options.__struct_fields__)
@pytest.mark.parametrize("value", [None, ""])
def test_empty_option_means_the_default(key, value):
    assert make_settings(extra={key: value}).options == Options()


def test_several_options():
    options = make_settings(extra={"connect_timeout": "1", "read_timeout": 2, "retries": "", "verify": "0"}).options
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
        *(("console_url", value) for value in (5, True, [CONSOLE_URL])),
    ],
)
def test_invalid_option(key, value):
    assert f"'{key}'" in str(expect_config_error(extra={key: value}))


@pytest.mark.parametrize(
    "console_url",
    [
        "https://console.example.com:8443/#/buckets/{bucket}?object={key}&parent={bucket}",
        "HTTPS://console.example.com/{key}@{bucket}",
        "http://127.0.0.1:9001/{bucket}/{key}",
        "http://localhost/{bucket}/{key}",
        "http://[::1]/{bucket}/{key}",
    ],
)
def test_console_url(console_url):
    assert make_settings(extra={"console_url": console_url}).options.console_url == console_url


@pytest.mark.parametrize(
    ("console_url", "message"),
    [
        ("console.example.com/{bucket}/{key}", "must begin with https://"),
        ("http://console.example.com/{bucket}/{key}", "must begin with https://"),
        ("javascript:alert('{bucket}{key}')", "must begin with https://"),
        ("https:///{bucket}/{key}", "must begin with https://"),
        ("https://{bucket}.example.com/{key}", "must begin with https://"),
        ("https://console.example.com:{key}/{bucket}", "must begin with https://"),
        ("https://[::1/{bucket}/{key}", "must begin with https://"),
        ("https://console.example.com/{bucket}/ {key}", "must begin with https://"),
        ("https://user:password@console.example.com/{bucket}/{key}", "no user or password"),
        ("https://console.example.com/", "must contain {bucket} and {key}"),
        ("https://console.example.com/{bucket}", "must contain {key}"),
        ("https://console.example.com/{key}", "must contain {bucket}"),
        ("https://console.example.com/{}/{bucket}/{key}", "unknown placeholder. Allowed: {bucket}, {key}."),
        ("https://console.example.com/{region}/{bucket}/{key}", "unknown placeholder"),
        ("https://console.example.com/{bucket}/{key}/{key!r}", "unknown placeholder"),
        ("https://console.example.com/{bucket}/{{key}}", "unknown placeholder"),
        ("https://console.example.com/{bucket}/{key}}", "unknown placeholder"),
    ],
)
def test_invalid_console_url(console_url, message):
    error = str(expect_config_error(extra={"console_url": console_url}))
    assert message in error
    assert "'console_url' in the extra of" in error


def test_unknown_option():
    message = str(expect_config_error(extra={"timeout": 5}))
    assert "Unknown key 'timeout'" in message
    assert all(known in message for known in Options.__struct_fields__)


@pytest.mark.parametrize(
    "extra",
    ["[]", "1", "null", '"text"', "read_timeout=60", '{"read_timeout": NaN}', "{", '{"a": "\ud800"}', 10**5 * '{"a":'],
    ids=["list", "number", "null", "text", "not JSON", "NaN", "truncated", "surrogate", "deep"],
)
def test_extra_is_not_a_json_object(extra):
    assert "not a JSON object" in str(expect_config_error(extra=extra))


def test_poll_timeout_is_connect_timeout_plus_twice_read_timeout():
    assert make_settings(extra={"connect_timeout": 2, "read_timeout": 10}).total_timeout == 22


@pytest.mark.parametrize("show", [repr, str, pretty_repr, "{}".format, "{!r}".format])
def test_repr_shows_no_secret(show):
    settings = make_settings(extra={"proxy": PROXY})
    for shown in (show(settings), show(settings.options), show([settings])):
        assert shows_no_secret(shown)
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
        {"extra": {"console_url": PROXY + "/{bucket}/{key}"}},
        {"extra": {"console_url": f"https://console.example.com/{SECRET_KEY}"}},
        {"extra": {"console_url": f"https://console.example.com/{{bucket}}/{{key}}/{{{SECRET_KEY}}}"}},
        {"extra": {"console_url": [SECRET_KEY]}},
    ],
)
def test_errors_show_no_secret(fields, everything_shown):
    assert shows_no_secret(everything_shown(expect_config_error(**fields)))


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


@pytest.mark.parametrize("spelled_key", SPELLINGS)
def test_keys_are_redacted_in_any_encoding(spelled_key):
    redacted = make_settings(extra={"proxy": PROXY}).redact(f"before {spelled_key} and {spelled_key} after")
    assert redacted == "before *** and *** after"


def test_key_that_is_a_prefix_of_the_other_key_is_redacted():
    settings = make_settings(access_key="0123456789", secret_key="0123456789/abcdef")
    assert settings.redact("0123456789/abcdef, 0123456789") == "***, ***"


@pytest.mark.parametrize("extra", [{}, {"proxy": PROXY}, {"proxy": "http://proxy.example.com:3128"}])
def test_text_without_a_key_is_unchanged(extra):
    text = "The user proxy of air.example.com: 100 % of a/b+c=d \\/ &amp; http://proxy.example.com:3128"
    assert make_settings(extra=extra).redact(text) == text


def shows_no_secret(text):
    return not any(secret in text for secret in (ACCESS_KEY, SECRET_KEY, *SPELLINGS))
