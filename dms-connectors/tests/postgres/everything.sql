-- A column of every type, and their extreme values.
CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE >= 0);
CREATE DOMAIN cheap AS price;
CREATE TABLE everything (
    id bigint PRIMARY KEY, b boolean, i2 smallint, i4 integer, o oid, f4 real, f8 float8,
    n numeric, n2 numeric(10,2), n0 numeric(30), wide numeric(60,20), neg numeric(5,-2),
    m money, t text, v varchar(20), c char(5), bp bpchar, nm name, ch "char", by bytea,
    d date, tm time, tm3 time(3), tz timetz, ts timestamp, ts0 timestamp(0),
    tstz timestamptz, iv interval, ivs interval second(2), u uuid, j json, jb jsonb,
    x xml, bi bit(5), vb varbit, a integer[], a2 text[][], ad date[], r int4range,
    nr numrange, mr int8multirange, ip inet, cd cidr, mac macaddr, mac8 macaddr8,
    pt point, ln line, ls lseg, bx box, ph path, pg polygon, ci circle, tv tsvector,
    tq tsquery, lsn pg_lsn, rc regclass, dom price, dom2 cheap,
    g integer GENERATED ALWAYS AS (i2 * 2) STORED, ident integer GENERATED ALWAYS AS IDENTITY);
INSERT INTO everything (id) VALUES (0);
INSERT INTO everything VALUES (1, true, -32768, 2147483647, 4294967295, '-0', 'NaN',
    'NaN', '-99999999.99', 123456789012345678901234567890,
    1234567890123456789012345678901234567890.00000000000000000001, 12345, '$1,234.56',
    E'a\tb\n\\', 'it''s', 'ab', 'x  ', 'name', 'q', '\x00ff', '0044-03-15 BC', '24:00',
    '12:34:56.789', '12:00:00.123456+05:30', '-infinity', '2020-01-01 00:00:01',
    'infinity', '1 mon -2 days +03:04:05.678901', '1.25 s',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"b":1, "a":1, "a":2}', '{"b":1,"a":[1.0]}',
    '<a>1</a>', B'10101', B'', '{{1,NULL},{3,4}}', '{{a,"b,c"},{NULL,"NULL"}}',
    '[0:1]={2020-01-01,infinity}', '[1,10)', '(,1.5]', '{[1,2),[5,7)}', '10.0.0.1/8',
    '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1,2)', '{1,2,3}',
    '[(0,0),(1,1)]', '((0,0),(1,1))', '[(0,0),(1,1)]', '((0,0),(1,1),(2,0))', '<(0,0),1>',
    'a:1 b:2A', 'a & !b', '16/B374D848', 'pg_class', 9.99, 1);
INSERT INTO everything (id, f4, f8, n, n2, wide, d, ts, tstz, iv, t, by, a, tz, jb) VALUES
    (2, 1e-45, 5e-324, 'Infinity', 'NaN', 0, 'infinity', '4714-11-24 00:00:00 BC',
    '294276-12-31 23:59:59.999999', '-178000000 years', '', '', '{}', '00:00-15:59:59', 'null'),
    (3, 'Infinity', '-Infinity', 0.00001, 0, -1.5, '5874897-12-31', '1969-12-31 23:59:59.999999',
    '0001-01-01 BC', '1 day', repeat('x', 100000), '\x', '{1}', '23:59:59.999999+00', '1e400');
DELETE FROM everything WHERE n2 = 'NaN'::numeric;
