-- The oldest version whose code can use the database. sql/schema.sql explains the columns.
-- readable_from: 7

CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY,
    readable_from INTEGER NOT NULL
);
