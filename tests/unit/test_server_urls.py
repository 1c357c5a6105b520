"""URLs of servers with a password that is not percent-encoded: none of it is repeated."""

import pytest

from runyard.syntax.server_urls import problem_with_broker_url, problem_with_postgres_url

POSTGRES = [
    "postgresql://shop:Tr0ub4dor@3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor@3xtra,x@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor?@3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor@x:3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor@x/3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor/3xtra@db.invalid/shop",
    "postgresql://shop:12345/3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor/3xtra",
    "postgresql://shop:Tr0ub4dor%zz3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor 3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor@x?3xtra@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor@x?3xtra=1@db.invalid/shop",
    "postgresql://shop:Tr0ub4dor@[3xtra@db.invalid/shop",
]
BROKERS = [
    "redis://:Tr0ub4dor/3xtra@db.invalid/0",
    "redis://:Tr0ub4dor[3xtra@db.invalid/0",
    "redis://:Tr0ub4dor#3xtra@db.invalid/0",
    "redis://:Tr0ub4dor?3xtra@db.invalid/0",
    "redis://:123/3xtra@db.invalid/0",
    "amqp://shop:Tr0ub4dor/3xtra@db.invalid;amqp://other",
]


@pytest.mark.parametrize("url", POSTGRES)
def test_a_url_of_postgresql_with_a_password_that_is_not_encoded_is_refused(url: str) -> None:
    assert "percent-encode special characters" in str(problem_with_postgres_url(url))


@pytest.mark.parametrize("url", POSTGRES)
def test_what_is_wrong_with_a_url_of_postgresql_repeats_nothing_of_it(url: str) -> None:
    problem = str(problem_with_postgres_url(url))
    assert [part for part in ("Tr0ub4dor", "3xtra", "12345", "shop") if part in problem] == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop@/shop",
        "postgres://shop:Tr0ub4dor%403xtra@db.invalid:5432/shop",
        "postgresql://shop:Tr0ub4dor?3#xtra@db.invalid/shop",
        "postgresql://shop:pw@a,b/shop?target_session_attrs=read-write",
        "postgresql://shop:pw@/shop?host=a,b&port=5432,5433",
        "postgresql://shop:pw@[::1]:5432/shop",
        "postgresql://runyard@/runyard?host=/tmp/a%40b/sockets&port=5432",
        "postgresql://shop@db.invalid/?dbname=a%40b",
        "postgresql://db.invalid/shop?user=shop@tenant&password=a@b",
    ],
)
def test_a_url_that_libpq_takes_as_it_is_meant_has_no_problem(url: str) -> None:
    assert problem_with_postgres_url(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://shop:pw@a:5432,b:5433/shop",
        "postgresql://shop:pw@%2Frun%2Fpostgresql/shop",
        "postgresql://shop@db.invalid/a%40b",
    ],
)
def test_a_url_that_dagster_would_read_otherwise_is_refused_with_another_form(url: str) -> None:
    assert "behind the ?, as in postgresql://" in str(problem_with_postgres_url(url))


@pytest.mark.parametrize("url", BROKERS)
def test_a_url_of_a_broker_with_a_password_that_is_not_encoded_is_refused(url: str) -> None:
    assert "percent-encode special characters" in str(problem_with_broker_url(url))


@pytest.mark.parametrize("url", BROKERS)
def test_what_is_wrong_with_a_url_of_a_broker_repeats_nothing_of_it(url: str) -> None:
    problem = str(problem_with_broker_url(url))
    assert [part for part in ("Tr0ub4dor", "3xtra", "123", "shop") if part in problem] == []


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://:pa@ss@db.invalid/0",
        "redis+socket:///tmp/a@b/redis.sock",
        "amqp://shop:pa%2Fss@db.invalid:5672/%2F;amqp://shop:pw@other",
    ],
)
def test_a_url_of_a_broker_that_is_read_as_it_is_meant_has_no_problem(url: str) -> None:
    assert problem_with_broker_url(url) is None
