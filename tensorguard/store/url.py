"""Database URLs: what people write, and what SQLAlchemy wants to read."""


def driver_url(url: str) -> str:
    """Return the URL with psycopg named as the driver; takes `postgresql://` and `postgres://`."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("a database URL starts with postgresql://")
    return f"postgresql+psycopg://{rest}"


def libpq_url(url: str) -> str:
    """Return the URL as libpq and psycopg read it."""
    return "postgresql://" + driver_url(url).partition("://")[2]
