"""How functions are written: steps, the graphs they form, and the definitions of a project.

::

    @step
    def greet(item: Item) -> str:
        return f"Welcome, {item.data['name']}!"

    @function("account/opened")
    def welcome(run: Run) -> None:
        greet(run)
        run.sleep("wait", "10s")
        follow_up(run)

    defs = definitions(welcome)

Each step becomes an op, and each function a job with a sensor: what one would write with
`receive`, `Batch`, `settle` and `on_event` of `dagster_adapter`, which remain for whatever these
forms cannot say.
"""
