"""`workbench circuit find`, `survey`, `score` and `show`."""

from workbench.cli.command import Command

find = Command(
    summary="Find the circuit that does a task, and measure how much of it it does",
    options="circuits.options:FindOptions",
    run="circuits.console:find",
)

survey = Command(
    summary="Find and test the circuit of every task of a model",
    options="circuits.options:SurveyOptions",
    run="circuits.console:survey_all",
)

score = Command(
    summary="Test a circuit on fresh prompts: faithfulness, completeness, minimality",
    options="circuits.options:ScoreOptions",
    run="circuits.console:score",
)

show = Command(
    summary="Write a circuit's report page: its graph, its numbers, the prompts that break it",
    options="circuits.options:ShowOptions",
    run="circuits.console:show",
)
