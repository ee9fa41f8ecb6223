-- Makes frames.txt anew: psql -qAt -v ON_ERROR_STOP=1 -f capture.sql URL, as a superuser in an empty database of a
-- server with wal_level=logical. It leaves no slot behind.
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE item (id int PRIMARY KEY, name text, price numeric(12,2), feeling mood, big text);
ALTER TABLE item ALTER big SET STORAGE EXTERNAL;
CREATE TABLE whole (a text, b bytea);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE bare ();
CREATE PUBLICATION frames FOR ALL TABLES;
SELECT FROM pg_create_logical_replication_slot('frames', 'pgoutput') \g /dev/null

INSERT INTO item VALUES (1, 'Zoë', 12.50, 'ok', repeat('x', 3000)), (2, '', NULL, NULL, NULL);
UPDATE item SET price = 13 WHERE id = 1;
UPDATE item SET id = 3 WHERE id = 1;
DELETE FROM item WHERE id = 3;
INSERT INTO whole VALUES ('a', '\xdeadbeef');
UPDATE whole SET a = NULL;
DELETE FROM whole;
INSERT INTO bare DEFAULT VALUES;
BEGIN;
SELECT FROM pg_logical_emit_message(true, 'weft', 'mark 1') \g /dev/null
ALTER TABLE item ADD tags text[];
INSERT INTO item (id, tags) VALUES (4, '{a,"b c"}');
COMMIT;
SELECT FROM pg_logical_emit_message(false, '', '\x00ff'::bytea) \g /dev/null
TRUNCATE item, whole RESTART IDENTITY CASCADE;
BEGIN;
SELECT FROM pg_replication_origin_create('elsewhere') \g /dev/null
SELECT FROM pg_replication_origin_session_setup('elsewhere') \g /dev/null
SELECT FROM pg_replication_origin_xact_setup('0/AB', '2026-01-02 03:04:05+00') \g /dev/null
INSERT INTO item VALUES (5);
COMMIT;

SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('frames', NULL, NULL,
  'proto_version', '1', 'publication_names', 'frames', 'messages', 'true') WITH ORDINALITY ORDER BY ordinality;
SELECT FROM pg_replication_origin_session_reset() \g /dev/null
SELECT FROM pg_replication_origin_drop('elsewhere') \g /dev/null
SELECT FROM pg_drop_replication_slot('frames') \g /dev/null
