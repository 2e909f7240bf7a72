"""Join strings: whole, or refused without a word of what they held."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorguard.protocol.errors import BadJoinString
from tensorguard.protocol.join import Join, format_join, parse_join

GOOD = Join(url="https://platform.example:8443", ca="ab" * 32, token="s3cret-token_0123456789")
visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)


def joined(**fields: object) -> str:
    document = {"url": GOOD.url, "ca": GOOD.ca, "token": GOOD.token} | fields
    body = base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()
    return f"tg1.{body}"


@given(
    st.from_regex(r"\Ahttps://[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?(:[1-9][0-9]{0,3})?\Z"),
    st.from_regex(r"\A[0-9a-f]{64}\Z"),
    st.text(visible, min_size=1, max_size=100),
)
def test_every_join_string_comes_back_whole(url: str, ca: str, token: str) -> None:
    join = Join(url=url, ca=ca, token=token)
    text = format_join(join)
    assert parse_join(text) == join
    assert parse_join(f"  {text}\n") == join


def test_the_form_is_the_published_one() -> None:
    text = format_join(GOOD)
    assert text.startswith("tg1.")
    assert "=" not in text
    body = text.removeprefix("tg1.")
    document = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert document == {"url": GOOD.url, "ca": GOOD.ca, "token": GOOD.token}
    assert parse_join(joined(from_the_future=1)) == GOOD


@given(st.data())
def test_a_cut_join_string_is_refused(data: st.DataObject) -> None:
    text = format_join(GOOD)
    length = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(BadJoinString):
        parse_join(text[:length])


@given(st.text(max_size=300))
def test_no_text_raises_anything_but_a_bad_join_string(text: str) -> None:
    for attempt in (text, f"tg1.{text}"):
        with pytest.raises(BadJoinString):
            parse_join(attempt)


@given(st.text(max_size=40))
def test_no_url_raises_anything_but_a_bad_join_string(text: str) -> None:
    try:
        join = parse_join(joined(url=f"https://{text}"))
    except BadJoinString:
        return
    assert join.url == f"https://{text}"


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "http://platform.example"},
        {"url": "platform.example:8443"},
        {"url": "https://"},
        {"url": "https://["},
        {"url": "https://platform.example:99999"},
        {"url": "https://platform.example:0"},
        {"url": "https://platform.example:port"},
        {"url": "https://user@platform.example"},
        {"url": "https://@platform.example"},
        {"url": "https://:pw@platform.example"},
        {"url": "https://platform.example/?a=1"},
        {"url": "https://platform.example/#a"},
        {"url": "https://platform\n.example"},
        {"url": "https://platform.example/a b"},
        {"url": "file:///etc/passwd"},
        {"url": 1},
        {"ca": "AB" * 32},
        {"ca": "ab" * 31},
        {"ca": "ab" * 32 + "\n"},
        {"ca": ""},
        {"token": ""},
        {"token": "a\nb"},
        {"token": None},
    ],
    ids=str,
)
def test_a_join_string_that_leads_elsewhere_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadJoinString):
        parse_join(joined(**fields))


@pytest.mark.parametrize(
    "text",
    [
        "tg2." + format_join(GOOD).removeprefix("tg1."),
        format_join(GOOD).replace("tg1.", "TG1."),
        format_join(GOOD) + "=",
        format_join(GOOD)[:20] + "\n" + format_join(GOOD)[20:],
        "tg1." + "A" * 5_000,
        "tg1.",
        "",
    ],
)
def test_a_damaged_join_string_is_refused_and_never_quoted(text: str) -> None:
    with pytest.raises(BadJoinString) as caught:
        parse_join(text)
    assert GOOD.token not in f"{caught.value.message} {caught.value.hint}"
    assert text[4:] == "" or text[4:] not in caught.value.message
    assert caught.value.__cause__ is None


def test_a_token_does_not_show_in_a_representation() -> None:
    assert GOOD.token not in repr(GOOD)
    assert GOOD.token not in str(GOOD)
