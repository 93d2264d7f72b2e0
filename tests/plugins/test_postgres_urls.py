"""A URL that is shown holds no secret, however it is written; and one that is unclear is refused in plain words."""

from __future__ import annotations

import logging
from urllib.parse import quote

import anyio
import psycopg
import psycopg_pool
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from horsies import AppConfig, Horsies, HorsiesError, Runtime
from horsies.plugins.postgres.driver.connection import connect
from horsies.plugins.postgres.driver.pool import ConnectionPool
from horsies.plugins.postgres.driver.session import Target
from horsies.plugins.postgres.driver.url import connect_parameters, describe, require_conninfo

PLACES = [
    "postgresql://u:{}@h/db",
    "postgresql://u:{}@h:5432,h2:5433/db?sslmode=require",
    "postgresql://u:{}@[::1]:5432/db",
    "postgresql://u:{}@/db?host=/tmp",
    "postgres://u:{}@h",
    "postgresql://:{}@h/db",
    "postgresql://u:x@h/db?password={}",
    "postgresql://h/db?user=u&password={}&sslmode=require",
    "postgresql://h/db?p%61ssword={}",
    "postgresql://h/db?%70%61%73%73%77%6F%72%64={}#",
    "postgresql://h/db?sslpassword={}",
    "postgresql://h/db?passfile=/{}",
    "postgresql://h/db?options=-c%20app.key%3D{}",
    "postgresql://u:{}@h/db?password={}",
    "postgresql://u:{}@h/db?no_such_option=1",
    "postgresql://u:{}@h/db?no_such_option={}",
    "postgresql://u:{}@h/%zz",
    "postgresql://u:{}@[::1/db",
    "POSTGRESQL://u:{}@h/db",
    "mysql+driver://u:{}@h/db",
    "sqlite://u:{}@h/db",
    "sqlite:///db?key={}",
]
SPECIAL = st.text("/?#@:&=%+,[]'\\ a1é", min_size=4)
PASSWORDS = SPECIAL | st.text(st.characters(exclude_categories=["Cs"]), min_size=4)


def everything_shown(url: str) -> list[str]:
    """What repr, str and errors say of `url`."""
    config = AppConfig.for_database_url(url, listen_url=url)
    app = Horsies(config)
    said = [config.masked_url, repr(config), str(config), repr(app), repr(Runtime(app)), describe(url)]
    said.append(repr(Target(url, connect_timeout=1, statement_timeout=1, pooled=False)))
    for read in (lambda: require_conninfo("url", url), lambda: connect_parameters(url, 1.0)):
        try:
            read()
        except (HorsiesError, psycopg.ProgrammingError) as error:
            said += [str(error), repr(error)]
    return said


@given(st.sampled_from(PLACES), PASSWORDS, st.booleans())
@example("postgresql://u:{}@h/db", "pa#SeCrEt", False)
@example("postgresql://u:{}@h/db", "pa?SeCrEt", False)
@example("postgresql://u:{}@h/db", "12/SeCrEt", False)
@example("postgresql://u:{}@h/db", "SeCrEt/12", False)
@example("postgresql://u:{}@h/db", "p@SeCrEt", False)
@example("postgresql://u:{}@h/db?password={}", "SeCrEt&port=1", False)
def test_no_password_is_shown(place: str, password: str, escaped: bool) -> None:
    written = quote(password, safe="") if escaped else password
    shown = everything_shown(place.replace("{}", written))
    plain = "\n".join(everything_shown(place.replace("{}", "\N{SNOWMAN}" * 4)))
    assume(password not in plain)
    assume(written not in plain)
    for text in shown:
        assert password not in text
        assert written not in text


@pytest.mark.parametrize(
    "password", ["12/SeCrEt", "SeCrEt/12", "p@SeCrEt", "/SeCrEt", "1/2?dbname=SeCrEt", "1/2?user=SeCrEt"]
)
def test_not_even_a_part_of_an_unescaped_password_is_shown(password: str) -> None:
    url = f"postgresql://u:{password}@h/db"
    assert not [text for text in everything_shown(url) if "SeCrEt" in text]
    with pytest.raises(HorsiesError, match=r"(?s)HRS-203.*/ as %2F, @ as %40"):
        require_conninfo("url", url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h:1,h2:2/db?sslmode=require", "postgresql://***@h:1,h2:2/db?sslmode=require"),
        ("postgresql://h/db?application_name=a&options=-cx", "postgresql://h/db?application_name=a&***"),
        ("postgresql://u@[::1]:5432/db", "postgresql://***@[::1]:5432/db"),
        ("postgresql://%2Fvar%2Frun/db?host=/tmp/x", "postgresql://%2Fvar%2Frun/db?host=/tmp/x"),
        ("postgresql:///db", "postgresql:///db"),
        ("postgresql://h/db?user=me@corp&password=p@w", "postgresql://h/db?***"),
        ("sqlite:////var/lib/it's mine@home.db", "sqlite:////var/lib/it's mine@home.db"),
        ("sqlite:///db?key=x", "sqlite:///db?***"),
        ("sqlite://:memory:", "sqlite://:memory:"),
    ],
)
def test_what_is_harmless_is_shown(url: str, shown: str) -> None:
    assert AppConfig.for_database_url(url).masked_url == shown


def test_nothing_of_a_url_from_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORSIES_DATABASE_URL", "u:SeCrEt@h/db")
    monkeypatch.setenv("HORSIES_LISTEN_URL", "SeCrEt")
    with pytest.raises(HorsiesError) as caught:
        AppConfig.from_env()
    assert "HORSIES_DATABASE_URL" in str(caught.value)
    assert "SeCrEt" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("options", ["-c statement_timeout=SeCrEt", "SeCrEt", "-c app.key=SeCrEt -c work_mem=x"])
async def test_a_refusal_that_quotes_the_options_is_told_without_them(
    postgres_url: str, options: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    separator = "&" if "?" in postgres_url else "?"
    url = f"{postgres_url}{separator}options={quote(options)}&password=SeCrEt2"
    with pytest.raises(psycopg.OperationalError) as caught:
        await connect(url, timeout=10)
    pool = ConnectionPool(url, min_size=1, max_size=1, timeout=0.5)
    with pytest.raises(psycopg_pool.PoolTimeout) as timeout:
        async with pool, pool.connection():
            pytest.fail("the server takes no such options")
    with pytest.raises(HorsiesError, match="HRS-211") as unusable:
        async with Runtime(Horsies(AppConfig.for_database_url(url))):
            pytest.fail("the server takes no such options")
    for error in (caught.value, timeout.value, unusable.value):
        assert "SeCrEt" not in f"{error} {error!r}"
    assert "SeCrEt" not in caplog.text


@pytest.mark.anyio
async def test_an_unclear_url_is_refused_before_anything_is_connected_to() -> None:
    url = "postgresql://u:1/SeCrEt@127.0.0.1/db"
    for field in ("url", "listen_url"):
        config = AppConfig(**{"url": "postgresql://127.0.0.1:1/db", field: url})
        with anyio.fail_after(5), pytest.raises(HorsiesError, match="HRS-203") as caught:
            async with Runtime(Horsies(config)):
                pytest.fail("nobody knows where the password ends")
        assert "SeCrEt" not in str(caught.value)
