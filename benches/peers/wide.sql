-- 32 columns of mixed types, half of them with NULLs; the same rows on every run.
CREATE TABLE wide (
  id bigint PRIMARY KEY, kind smallint NOT NULL, amount integer NOT NULL, parent integer,
  hash bigint NOT NULL, price numeric(12,2) NOT NULL, rate numeric(9,6), total numeric(24,4),
  measure numeric, score real, ratio double precision NOT NULL, active boolean NOT NULL,
  verified boolean, code char(8) NOT NULL, name varchar(40) NOT NULL, email text,
  remark text, body text NOT NULL, born date NOT NULL, ended date, at_time time NOT NULL,
  created timestamp NOT NULL, updated timestamptz NOT NULL, deleted timestamptz,
  ticked timestamp(3), key uuid NOT NULL, session uuid, document jsonb NOT NULL,
  settings jsonb, raw bytea, tags text[] NOT NULL, counts integer[]
);
INSERT INTO wide SELECT
  i, i % 7, i * 7919 % 1000003, CASE WHEN i % 10 < 3 THEN i / 2 END,
  hashint8extended(i, 0), i % 1000000 / 100.0, CASE WHEN i % 2 = 0 THEN i % 999 / 1000.0 END,
  CASE WHEN i % 5 = 0 THEN i * 1234567.8901 END,
  CASE WHEN i % 3 = 0 THEN i / 8.0 END, CASE WHEN i % 4 > 0 THEN sqrt(i) END, ln(i), i % 3 = 0,
  CASE WHEN i % 10 < 4 THEN i % 2 = 0 END, left(h, 8), 'Name ' || left(h, (i % 30)::int),
  CASE WHEN i % 10 < 8 THEN h || '@example.com' END, CASE WHEN i % 20 = 0 THEN h || h END,
  repeat(h || ' ', (i % 8)::int), DATE '1950-01-01' + (i % 20000)::int,
  CASE WHEN i % 10 = 0 THEN DATE '2020-01-01' + (i % 2000)::int END,
  TIME '00:00' + i * INTERVAL '1.000007 s', TIMESTAMP '2000-01-01' + i * INTERVAL '61.000003 s',
  TIMESTAMPTZ '2010-01-01 00:00Z' + i * INTERVAL '17.5 s',
  CASE WHEN i % 20 = 0 THEN TIMESTAMPTZ '2024-01-01 00:00Z' + i * INTERVAL '1 s' END,
  CASE WHEN i % 2 = 0 THEN TIMESTAMP '1999-01-01' + i * INTERVAL '0.007 s' END,
  h::uuid, CASE WHEN i % 3 = 0 THEN md5(h)::uuid END,
  jsonb_build_object('id', i, 'name', h, 'nested', jsonb_build_object('on', i % 2 = 0, 'list', jsonb_build_array(i, null, 'x'))),
  CASE WHEN i % 10 = 0 THEN jsonb_build_object('theme', left(h, 4)) END,
  CASE WHEN i % 4 = 0 THEN decode(h, 'hex') END,
  ARRAY[left(h, 3), right(h, 5)], CASE WHEN i % 5 = 0 THEN ARRAY[i, NULL, i % 10]::int[] END
FROM generate_series(1, 500000::bigint) AS i, LATERAL (SELECT md5(i::text)) AS hashed(h);
