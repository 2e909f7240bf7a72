-- The three roles of the platform. Idempotent; run by a superuser, once for each server:
--
--   psql -f roles.sql
--   createdb --owner tg_owner --template template0 --encoding UTF8 tensorguard
--
-- then give tg_owner and tg_app passwords (\password tg_owner), or a line in pg_hba.conf, and hand
-- them to the platform as TG_DATABASE_OWNER_URL and TG_DATABASE_URL. The embedded PostgreSQL runs
-- this file itself.
--
-- tg_owner      owns the database and every table; only `tensorguard db upgrade` uses it
-- tg_app        the services; owns nothing and inherits nothing
-- tg_sequencer  what the ledger's sequencer takes by SET ROLE

DO $roles$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tg_owner') THEN
    CREATE ROLE tg_owner LOGIN;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tg_app') THEN
    CREATE ROLE tg_app LOGIN NOINHERIT;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tg_sequencer') THEN
    CREATE ROLE tg_sequencer NOLOGIN;
  END IF;
END
$roles$;

GRANT tg_sequencer TO tg_app;
