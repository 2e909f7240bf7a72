-- Run once by an administrator of the server, in the database that the platform is to use:
--   psql -d tensorguard -v owner_password=… -v app_password=… -f roles.sql
-- tg_owner migrates and owns everything; tg_app serves and owns nothing; only tg_sequencer may take
-- events out of the ledger's queue (tg_app switches to it for exactly that).
CREATE ROLE tg_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE tg_app LOGIN NOINHERIT PASSWORD :'app_password';
CREATE ROLE tg_sequencer NOLOGIN;
GRANT tg_sequencer TO tg_app;
ALTER SCHEMA public OWNER TO tg_owner;
