"""The application whose idle worker `benchmarks.idle` looks at: `horsies worker benchmarks.idle_app:app`."""

from horsies import AppConfig

from .subjects.horsies import application

app = application(AppConfig.from_env())
