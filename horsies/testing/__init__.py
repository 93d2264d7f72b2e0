"""For the authors of plugins and for tests: the suite every broker passes, and a Postgres to run it on."""
