-- The oldest version whose code can use the schema. sql/schema.sql explains the columns.
-- readable_from: 7

ALTER TABLE {schema}.migrations ADD COLUMN IF NOT EXISTS readable_from integer;
