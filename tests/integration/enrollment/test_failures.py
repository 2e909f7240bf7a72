"""Failed enrollments in the ledger: counted, capped, without an address."""

from datetime import timedelta

from tensorguard.services.enrollment.enrollment_failures import OVERFLOW, EnrollmentFailures
from tests.integration.enrollment.builders import NOW, Platform

LATER = NOW + timedelta(minutes=1)


async def flush(platform: Platform, failures: EnrollmentFailures) -> None:
    async with platform.maker() as session, session.begin():
        written = await failures.flush(session, now=LATER)
    failures.forget(written)


async def test_refusals_of_one_kind_network_and_minute_are_one_entry(platform: Platform) -> None:
    failures = EnrollmentFailures()
    for host in range(1, 200):
        failures.count("csr-malformed", f"192.0.2.{host}", NOW)
        failures.count("csr-malformed", f"2001:db8::{host:x}", NOW)
    failures.count("csr-malformed", "198.51.100.1", NOW)
    failures.count("enrollment-token-unknown", "192.0.2.1", NOW)

    await flush(platform, failures)

    entries = platform.events("agent.enrollment-failed")
    assert len(entries) == 4
    assert sum('"count":199' in entry for entry in entries) == 2
    assert not any("192.0.2" in entry or "2001:" in entry for entry in entries)
    assert len(failures) == 0


async def test_the_minute_that_is_not_over_is_not_written_yet(platform: Platform) -> None:
    failures = EnrollmentFailures()
    failures.count("csr-malformed", "192.0.2.1", LATER)
    await flush(platform, failures)
    assert platform.events("agent.enrollment-failed") == []
    assert len(failures) == 1


async def test_what_was_not_committed_is_written_by_the_next_flush(platform: Platform) -> None:
    failures = EnrollmentFailures()
    failures.count("csr-malformed", "192.0.2.1", NOW)
    async with platform.maker() as session:
        await failures.flush(session, now=LATER)  # rolled back
    failures.count("csr-malformed", "192.0.2.1", NOW)
    await flush(platform, failures)
    (entry,) = platform.events("agent.enrollment-failed")
    assert '"count":2' in entry


async def test_a_flood_of_networks_makes_a_bounded_number_of_entries(platform: Platform) -> None:
    failures = EnrollmentFailures(most_counters=10)
    for number in range(5000):
        failures.count("csr-malformed", f"10.{number // 256}.{number % 256}.1", NOW)
    assert len(failures) == 11

    await flush(platform, failures)

    entries = platform.events("agent.enrollment-failed")
    assert len(entries) == 11
    (overflow,) = [entry for entry in entries if OVERFLOW in entry]
    assert '"count":4990' in overflow


async def test_what_is_no_address_is_counted_as_well(platform: Platform) -> None:
    failures = EnrollmentFailures()
    for peer in ("", "unix:", "999.1.1.1"):
        failures.count("csr-malformed", peer, NOW)
    await flush(platform, failures)
    (entry,) = platform.events("agent.enrollment-failed")
    assert '"count":3' in entry
