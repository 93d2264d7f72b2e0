-- Who leads, which queues are paused, and what ended when. sql/schema.sql explains the columns.

CREATE INDEX tasks_done ON tasks (finished_at) WHERE phase = 3;

CREATE TABLE leases (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT,
    watching INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO leases (name, holder, expires_at) VALUES ('leader', NULL, 0);

CREATE TABLE queues (
    name TEXT NOT NULL PRIMARY KEY,
    paused_at INTEGER
) WITHOUT ROWID;
